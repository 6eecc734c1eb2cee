// Sources of B for gemm.h: a matrix, however it lies in memory, as strips of 16 columns.
//
//   PackedB<T>              packed strips of B: read in place, or widened where T is no operand
//   PackedTransposedB<T>    packed strips of B^T: dx = dy W by the packed weight of y = x W^T
//   TransposedB<T>          bt [N, K]: y = x W^T by the weight itself
//   PlainB<T>               b [K, N]: dx = dy W by the weight itself, dW = dy^T x
//
// prepare(step, scratch, slices) gives the operands of one K block of a task's strips, in place or in scratch, which stays in
// L2 for all rows of the task; zeros beyond the matrix. It fetches what the next step reads, but for packed strips, which
// the multiplication fetches: following(step, s) is where, kFetched how many bytes a number has there.
// kMostStrips: of a task.
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

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = sizeof(T);
  LYNX_INLINE const T* strip(int64_t s, int64_t k) const { return data + (s * packed_depth<T>(K) + k) * kStripColumns; }
  LYNX_INLINE const char* following(const Step& at, int64_t s) const {
    return reinterpret_cast<const char*>(at.is_last() ? strip(at.next + s, 0) : strip(at.first + s, at.k + at.depth));
  }
  LYNX_INLINE void prepare(const Step& at, [[maybe_unused]] Operand* scratch, const Operand** slices) const {
    for (int64_t s = 0; s < at.strips; ++s) {
      const T* from = strip(at.first + s, at.k);
      if constexpr (same_type<T, Operand>) {
        slices[s] = from;
      } else {
        slices[s] = scratch + s * GemmScratch::kSliceElements;
        widen(from, at.depth, scratch + s * GemmScratch::kSliceElements);
      }
    }
  }

 private:
  static LYNX_INLINE void widen(const bf16* from, int64_t depth, float* out) {
    for (int64_t i = 0; i < depth; i += 2) {
      for (int64_t n = 0; n < kStripColumns; n += kWidth) {
        Vec first, second;
        widen_pairs(from + i * kStripColumns + 2 * n, first, second);
        store(out + i * kStripColumns + n, first);
        store(out + (i + 1) * kStripColumns + n, second);
      }
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

  // The rows of the following task are fetched while this one is turned: 4 strips of 4096 float32 numbers are 1 MB.
  static constexpr int64_t kMostStrips = 4, kFetched = 0;
  static constexpr int64_t kTurned = kWidth * (same_type<Operand, bf16> ? 2 : 1);  // numbers of a row in a vector
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    // In the order of memory, whatever the order in which the task reads them: 16 rows of this block at a time are 16
    // places, too many for the hardware's prefetchers (17 GB/s at T = 1 on a Zen 5, 30 with this).
    const T* ahead = data + at.next * kStripColumns * ld + at.strips * kStripColumns * at.k;
    for (int64_t s = 0; s < at.strips; ++s, ahead += kStripColumns * at.depth) {
      Operand* out = scratch + s * GemmScratch::kSliceElements;
      for (int64_t n = 0; n < kStripColumns; n += kWidth) {
        turn(at, (at.first + s) * kStripColumns + n, out + n, ahead + n * at.depth);
      }
      slices[s] = out;
    }
  }

 private:
  LYNX_INLINE void turn(const Step& at, int64_t n, Operand* out, const T* ahead) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const T* rows = data + n * ld + at.k;
    for (int64_t i = 0; i < at.depth; i += kTurned, ahead += kWidth * kTurned) {
      const int64_t left = K - at.k - i;
      Vec block[kWidth];
      if (N - n >= kWidth && left >= kTurned) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) block[j] = read(rows + j * ld + i, kTurned);
      } else {
        for (int j = 0; j < kWidth; ++j) block[j] = j < N - n && left > 0 ? read(rows + j * ld + i, left) : zero();
      }
      for (int64_t line = 0; line < kWidth * kTurned; line += kLine) _mm_prefetch(ahead + line, _MM_HINT_T1);
      transpose_vectors(block);
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
        __builtin_memcpy(out + (i + j * kTurned / kWidth) * kStripColumns, &block[j], sizeof block[j]);
      }
    }
  }
  static LYNX_INLINE Vec read(const T* p, int64_t count) {
#if defined(__AVX512F__)
    if constexpr (same_type<Operand, bf16>) return load_pairs(p, count);
#endif
    return load_some(p, count);
  }
};

template <class T>
struct PlainB {
  const T* data;
  int64_t ld, N, K;

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = 0;
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    for (int64_t s = 0; s < at.strips; ++s) slices[s] = scratch + s * GemmScratch::kSliceElements;
    const int64_t width = at.strips * kStripColumns, n = at.first * kStripColumns;
    const T* ahead = at.is_last() ? data + at.next * kStripColumns : data + (at.k + at.depth) * ld + n;
    for (int64_t i = 0; i < at.depth; i += kStepRows, ahead += kStepRows * ld) {
      for (int64_t line = 0; line < width; line += kLine) {
        for (int64_t j = 0; j < kStepRows; ++j) _mm_prefetch(ahead + j * ld + line, _MM_HINT_T1);
      }
      for (int64_t s = 0; s < at.strips; ++s) {
        lay(at.k + i, n + s * kStripColumns, scratch + s * GemmScratch::kSliceElements + i * kStripColumns);
      }
    }
  }

 private:
#if defined(__AVX512BF16__) || defined(LYNX_HAS_TILES)
  static constexpr int64_t kStepRows = 2;
  LYNX_INLINE void lay(int64_t k, int64_t n, bf16* out) const {
    _mm512_storeu_si512(out, interleave(row(k, n), row(k + 1, n)));
  }
  LYNX_INLINE __m256i row(int64_t k, int64_t n) const {
    if (k >= K) return _mm256_setzero_si256();
    const __mmask16 mask = N - n >= kStripColumns ? static_cast<__mmask16>(0xffff) : tail_mask(N - n);
    return _mm256_maskz_loadu_epi16(mask, data + k * ld + n);
  }
#else
  static constexpr int64_t kStepRows = 1;
  LYNX_INLINE void lay(int64_t k, int64_t n, float* out) const {
    for (int64_t j = 0; j < kStripColumns; j += kWidth) {
      store(out + j, n + j < N ? load_some(data + k * ld + n + j, N - n - j) : zero());
    }
  }
#endif
};

/// K, N: of this product, the transpose of the packed one.
template <class T>
struct PackedTransposedB {
  const T* data;
  int64_t N, K;

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = 0;
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    const int64_t strip = packed_depth<T>(N) * kStripColumns;
    for (int64_t s = 0; s < at.strips; ++s) {
      const int64_t n = (at.first + s) * kStripColumns;
      Operand* out = scratch + s * GemmScratch::kSliceElements;
      for (int64_t i = 0; i < at.depth; i += kStripColumns) {
        turn_square(data + (at.k + i) / kStripColumns * strip + n * kStripColumns, n, at.k + i,
                    out + i * kStripColumns);
      }
      slices[s] = out;
    }
  }

 private:
  /// 16 columns n and 16 values of k.
  LYNX_INLINE void turn_square(const T* from, int64_t n, int64_t k, Operand* out) const {
    if (k >= K) {  // a tile is deeper than the last strip
      __builtin_memset(out, 0, kStripColumns * kStripColumns * sizeof(Operand));
    } else if constexpr (same_type<Operand, bf16>) {
      turn_pairs(from, out);
    } else {
      for (int64_t r = 0; r < kStripColumns; r += kWidth) {
        for (int64_t c = 0; c < kStripColumns; c += kWidth) turn(from, n, r, c, out + r * kStripColumns + c);
      }
    }
  }
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
