// Sources of B for gemm.h: a matrix, however it lies in memory, as strips of 16 columns.
//
//   PackedB<T>              packed strips of B: read in place, or widened where T is no operand
//   PackedTransposedB<T>    packed strips of B^T: dx = dy W by the packed weight of y = x W^T
//   TransposedB<T>          bt [N, K]: y = x W^T by the weight itself
//   PlainB<T>               b [K, N]: dx = dy W by the weight itself, dW = dy^T x
//
// slice(s, k, depth, scratch) gives the operands of columns 16 s .. 16 s + 16 and `depth` values of k, zeros beyond the
// matrix. A source that is not read in place fills scratch, which stays in L2 for all rows of the task: one transpose of
// 16 x 16 numbers costs 64 shuffles. address(s, k) says where the slice begins in memory, kFetched how many bytes of it
// a number has, for fetching it early; 0 where it does not lie in one run.
#pragma once
#include "gemm.h"
#include "vec_transpose.h"

namespace lynx::LYNX_ISA {

template <class A, class B>
constexpr bool same_type = false;
template <class A>
constexpr bool same_type<A, A> = true;

/// Values of k that a packed strip has: pairs come in whole AMX tiles.
template <class T>
LYNX_INLINE int64_t packed_depth(int64_t K) {
  return same_type<T, bf16> ? round_up(K, 32) : K;
}

/// A vector of pairs as its first and its second numbers.
LYNX_INLINE void widen_pairs(const bf16* pairs, Vec& first, Vec& second) {
#if defined(__AVX512F__)
  const __m512i both = _mm512_loadu_si512(pairs);
  first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
#else
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  first = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  second = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
#endif
}

template <class T>
struct PackedB {
  const T* data;
  int64_t K;

  static constexpr int64_t kFetched = sizeof(T);
  LYNX_INLINE const T* address(int64_t s, int64_t k) const {
    return data + (s * packed_depth<T>(K) + k) * kStripColumns;
  }
  LYNX_INLINE const Operand* slice(int64_t s, int64_t k, int64_t depth, Operand* scratch) const {
    const T* strip = address(s, k);
    if constexpr (same_type<T, Operand>) {
      return strip;
    } else {
      for (int64_t i = 0; i < depth; i += 2) {
        for (int64_t n = 0; n < kStripColumns; n += kWidth) {
          Vec first, second;
          widen_pairs(strip + i * kStripColumns + 2 * n, first, second);
          store(scratch + i * kStripColumns + n, first);
          store(scratch + (i + 1) * kStripColumns + n, second);
        }
      }
      return scratch;
    }
  }
};

#if defined(__AVX512F__)

/// 16 pairs along a row, the first `count` numbers of 32; the rest are zeros.
LYNX_INLINE Vec load_pairs(const bf16* p, int64_t count) {
  const __mmask32 mask = count >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((uint32_t{1} << count) - 1);
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, p));
}
/// Two rows of 16 numbers as 16 pairs.
LYNX_INLINE __m512i interleave(__m256i even, __m256i odd) {
  return _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
}

#endif

template <class T>
struct TransposedB {
  const T* data;
  int64_t ld, N, K;

  static constexpr int64_t kFetched = 0;
  static constexpr int64_t kStep = kWidth * (same_type<Operand, bf16> ? 2 : 1);  // numbers of a row in a vector
  LYNX_INLINE const T* address(int64_t, int64_t) const { return data; }
  LYNX_INLINE const Operand* slice(int64_t s, int64_t k, int64_t depth, Operand* scratch) const {
    for (int64_t n = 0; n < kStripColumns; n += kWidth) {
      const T* rows = data + (s * kStripColumns + n) * ld + k;
      const int64_t present = N - s * kStripColumns - n;
      for (int64_t i = 0; i < depth; i += kStep) {
        Vec block[kWidth];
        if (present >= kWidth && K - k - i >= kStep) {
#pragma GCC unroll 16
          for (int j = 0; j < kWidth; ++j) {
            block[j] = read(rows + j * ld + i, kStep);
            _mm_prefetch(rows + j * ld + i + kDepth, _MM_HINT_T1);
          }
        } else {
          for (int j = 0; j < kWidth; ++j) block[j] = j < present ? read(rows + j * ld + i, K - k - i) : zero();
        }
        transpose_vectors(block);
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          store_operands(scratch + i * kStripColumns + j * kStep / kWidth * kStripColumns + n, block[j]);
        }
      }
    }
    return scratch;
  }

 private:
  static LYNX_INLINE Vec read(const T* p, int64_t count) {
    if (count <= 0) return zero();
#if defined(__AVX512F__)
    if constexpr (same_type<Operand, bf16>) return load_pairs(p, count);
#endif
    return load_some(p, count);
  }
  static LYNX_INLINE void store_operands(Operand* p, Vec values) { __builtin_memcpy(p, &values, sizeof values); }
};

template <class T>
struct PlainB {
  const T* data;
  int64_t ld, N, K;

  static constexpr int64_t kFetched = 0;
  LYNX_INLINE const T* address(int64_t, int64_t) const { return data; }
  LYNX_INLINE const Operand* slice(int64_t s, int64_t k, int64_t depth, Operand* scratch) const {
    const int64_t n = s * kStripColumns;
    if constexpr (same_type<Operand, bf16>) {
      for (int64_t i = 0; i < depth; i += 2) {
        _mm512_storeu_si512(scratch + i * kStripColumns, interleave(this->row(k + i, n), this->row(k + i + 1, n)));
      }
    } else {
      for (int64_t i = 0; i < depth; ++i) {
        for (int64_t j = 0; j < kStripColumns; j += kWidth) {
          const bool present = k + i < K && n + j < N;
          const T* at = data + (k + i) * ld + n + j;
          store(scratch + i * kStripColumns + j, present ? load_some(at, N - n - j) : zero());
        }
      }
    }
    return scratch;
  }

 private:
#if defined(__AVX512F__)
  LYNX_INLINE __m256i row(int64_t k, int64_t n) const {
    if (k >= K) return _mm256_setzero_si256();
    const __mmask16 mask = N - n >= kStripColumns ? static_cast<__mmask16>(0xffff) : tail_mask(N - n);
    return _mm256_maskz_loadu_epi16(mask, data + k * ld + n);
  }
#endif
};

/// K, N: of this product, the transpose of the packed one.
template <class T>
struct PackedTransposedB {
  const T* data;
  int64_t N, K;

  static constexpr int64_t kFetched = 0;
  LYNX_INLINE const T* address(int64_t, int64_t) const { return data; }
  LYNX_INLINE const Operand* slice(int64_t s, int64_t k, int64_t depth, Operand* scratch) const {
    const int64_t n = s * kStripColumns, block = packed_depth<T>(N) * kStripColumns;
    const T* from = data + k / kStripColumns * block + n * kStripColumns;
    for (int64_t i = 0; i < depth; i += kStripColumns, from += block) {
      if (k + i >= K) {  // a tile is deeper than the last strip
        __builtin_memset(scratch + i * kStripColumns, 0, kStripColumns * kStripColumns * sizeof(Operand));
      } else if constexpr (same_type<Operand, bf16>) {
        turn_pairs(from, scratch + i * kStripColumns);
      } else {
        for (int64_t r = 0; r < kStripColumns; r += kWidth) {
          for (int64_t c = 0; c < kStripColumns; c += kWidth)
            turn(from, n, r, c, scratch + (i + r) * kStripColumns + c);
        }
      }
    }
    return scratch;
  }

 private:
  /// out[r][c] = numbers r of columns n + c, kWidth of each, from 16 columns of 16.
  LYNX_INLINE void turn(const T* from, int64_t n, int64_t r, int64_t c, float* out) const {
    Vec block[kWidth];
#pragma GCC unroll 8
    for (int j = 0; j < kWidth; j += 2) {
      block[j] = block[j + 1] = zero();
      const T* at = from + (c + j) * kStripColumns;
      if constexpr (same_type<T, bf16>) {
        if (n + c + j < N) widen_pairs(at + 2 * r, block[j], block[j + 1]);
      } else {
        if (n + c + j < N) block[j] = load(at + r);
        if (n + c + j + 1 < N) block[j + 1] = load(at + kStripColumns + r);
      }
    }
    transpose_vectors(block);
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) store(out + j * kStripColumns, block[j]);
  }
#if defined(__AVX512F__)
  /// Eight rows of 16 pairs, (c, c + 1) of each r, to eight rows of 16 pairs (r, r + 1) of each c.
  static LYNX_INLINE void turn_pairs(const bf16* from, bf16* out) {
    Vec block[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) block[j] = j < 8 ? load_pairs(from + j * 32, 32) : zero();
    transpose_vectors(block);
#pragma GCC unroll 8
    for (int j = 0; j < 16; j += 2) {
      const __m256i even = _mm512_castsi512_si256(_mm512_castps_si512(block[j]));
      const __m256i odd = _mm512_castsi512_si256(_mm512_castps_si512(block[j + 1]));
      _mm512_storeu_si512(out + j * kStripColumns, interleave(even, odd));
    }
  }
#endif
};

}  // namespace lynx::LYNX_ISA
