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
// kMostStrips: of a task. kDirectRows: with so few rows, dot(step, rows, sums, width) does it all without scratch.
#pragma once
#include "gemm.h"
#include "vec_transpose.h"

namespace lynx::LYNX_ISA {

constexpr int64_t kPairs = sizeof(float) / sizeof(Operand);  // values of k in 32 bits of a strip

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

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = sizeof(T), kDirectRows = 0;
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
  static constexpr int64_t kTurned = kWidth * kPairs;  // numbers of a row in a vector
#if defined(LYNX_HAS_TILES)
  static constexpr int64_t kDirectRows = 0;
#else
  static constexpr int64_t kDirectRows = kWidth / 2;
  /// sums (+)= few rows times the strips, straight from the registers in which they were turned.
  LYNX_INLINE void dot(const Step& at, const Rows& a, float* sums, int64_t width) const {
    for (int64_t n = 0; n < at.strips * kStripColumns; n += kWidth) {
#define LYNX_ROWS(R)                                                                     \
  case R:                                                                                \
    dot_turned<(R <= kDirectRows ? R : 1)>(at, n, a.data + at.k, a.ld, sums + n, width); \
    break;
      switch (a.M) {
        LYNX_ROWS(1)
        LYNX_ROWS(2)
        LYNX_ROWS(3)
        LYNX_ROWS(4)
        LYNX_ROWS(5)
        LYNX_ROWS(6)
        LYNX_ROWS(7)
        LYNX_ROWS(8)
      }
#undef LYNX_ROWS
    }
  }
#endif
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    for (int64_t s = 0; s < at.strips; ++s) {
      Operand* out = scratch + s * GemmScratch::kSliceElements;
      for (int64_t n = 0; n < kStripColumns; n += kWidth) {
        turn(at, s * kStripColumns + n, [&](int64_t k, const Vec(&block)[kWidth]) __attribute__((always_inline)) {
#pragma GCC unroll 16
          for (int j = 0; j < kWidth; ++j) {
            __builtin_memcpy(out + (k + j * kPairs) * kStripColumns + n, &block[j], sizeof block[j]);
          }
        });
      }
      slices[s] = out;
    }
  }

 private:
#if !defined(LYNX_HAS_TILES)
  template <int R>
  __attribute__((noinline)) void dot_turned(const Step& at, int64_t n, const Operand* a, int64_t lda, float* sums,
                                            int64_t width) const {
    Vec sum[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] = zero();
    turn(at, n, [&](int64_t k, const Vec(&block)[kWidth]) __attribute__((always_inline)) {
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) {
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) sum[r] = multiply_add(broadcast(a + r * lda + k + j * kPairs), block[j], sum[r]);
      }
    });
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      float* row = sums + r * width;
      store(row, at.k == 0 ? sum[r] : add(load(row), sum[r]));
    }
  }
#endif
  /// body(k, block): kWidth columns from `n` of the task on, kTurned values of k from `k` on, column by column.
  template <class Body>
  LYNX_INLINE void turn(const Step& at, int64_t n, const Body& body) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const int64_t column = at.first * kStripColumns + n;
    const T* rows = data + column * ld + at.k;
    // In the order of memory, whatever the order of reading: 16 rows are too many places for the hardware's prefetchers.
    const T* ahead = data + at.next * kStripColumns * ld + at.strips * kStripColumns * at.k + n * at.depth;
    for (int64_t k = 0; k < at.depth; k += kTurned, ahead += kWidth * kTurned) {
      const int64_t left = K - at.k - k;
      Vec block[kWidth];
      if (N - column >= kWidth && left >= kTurned) {
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) block[j] = read(rows + j * ld + k, kTurned);
      } else {
        for (int j = 0; j < kWidth; ++j) block[j] = j < N - column && left > 0 ? read(rows + j * ld + k, left) : zero();
      }
      for (int64_t line = 0; line < kWidth * kTurned; line += kLine) _mm_prefetch(ahead + line, _MM_HINT_T1);
      transpose_vectors(block);
      body(k, block);
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

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = 0, kDirectRows = 0;
  // Rows are often a multiple of 4 KB apart and so share few sets of L2: 512 of them would push each other out.
  static constexpr int64_t kAheadRows = 48;
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    for (int64_t s = 0; s < at.strips; ++s) slices[s] = scratch + s * GemmScratch::kSliceElements;
    const int64_t width = at.strips * kStripColumns, n = at.first * kStripColumns;
    for (int64_t i = 0; i < at.depth; i += kStepRows) {
      const int64_t coming = at.k + i + kAheadRows;
      const T* ahead = coming < K ? data + coming * ld + n : data + (coming - K) * ld + at.next * kStripColumns;
      for (int64_t line = 0; line < width; line += kLine) {
        for (int64_t j = 0; j < kStepRows; ++j) _mm_prefetch(ahead + j * ld + line, _MM_HINT_T1);
      }
      lay(at, i, scratch);
    }
  }

 private:
#if defined(__AVX512BF16__) || defined(LYNX_HAS_TILES)
  static constexpr int64_t kStepRows = 2;
  /// Rows i and i + 1 of the block as pairs, two strips at a time where both are whole.
  LYNX_INLINE void lay(const Step& at, int64_t i, bf16* scratch) const {
    const int64_t k = at.k + i, n = at.first * kStripColumns;
    const bf16 *even = data + k * ld + n, *odd = k + 1 < K ? even + ld : nullptr;
    bf16* out = scratch + i * kStripColumns;
    for (int64_t s = 0; s < at.strips; s += 2) {
      const int64_t left = N - n - s * kStripColumns;
      const __m512i first = k < K ? row(even + s * kStripColumns, left) : _mm512_setzero_si512();
      const __m512i second = odd != nullptr ? row(odd + s * kStripColumns, left) : _mm512_setzero_si512();
      bf16* strip = out + s * GemmScratch::kSliceElements;
      _mm512_storeu_si512(strip, _mm512_permutex2var_epi16(first, pairs(0), second));
      if (s + 1 == at.strips) return;
      _mm512_storeu_si512(strip + GemmScratch::kSliceElements, _mm512_permutex2var_epi16(first, pairs(16), second));
    }
  }
  static LYNX_INLINE __m512i row(const bf16* p, int64_t count) { return _mm512_castps_si512(load_pairs(p, count)); }
  /// Places of the pairs `from` .. `from` + 16 of two rows of 32.
  static LYNX_INLINE __m512i pairs(int from) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32(from));
    return _mm512_or_si512(place, _mm512_slli_epi32(_mm512_add_epi32(place, _mm512_set1_epi32(32)), 16));
  }
#else
  static constexpr int64_t kStepRows = 1;
  LYNX_INLINE void lay(const Step& at, int64_t i, float* scratch) const {
    const int64_t n = at.first * kStripColumns;
    const T* row = data + (at.k + i) * ld;
    for (int64_t s = 0; s < at.strips; ++s) {
      float* out = scratch + s * GemmScratch::kSliceElements + i * kStripColumns;
      for (int64_t j = 0; j < kStripColumns; j += kWidth) {
        const int64_t column = n + s * kStripColumns + j;
        store(out + j, column < N ? load_some(row + column, N - column) : zero());
      }
    }
  }
#endif
};

/// K, N: of this product, the transpose of the packed one.
template <class T>
struct PackedTransposedB {
  const T* data;
  int64_t N, K;

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = 0, kDirectRows = 0;
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
