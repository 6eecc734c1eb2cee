// A few queries against many keys: nothing is used often enough to be packed, and reading keys and values is all the time
// there is. Keys are transposed in registers on their way into the products, values used where they lie; 8 rows at a time
// and one head after the other, so that memory is read nearly in the order of its addresses. Not 16 rows: those of a cache
// are often a multiple of 4 KiB apart, and of lines that far apart L1 holds 12.
//
// A number is the chain of multiply-adds that panel_gemm.h makes of it, in the same order: a decoded row has the bits of
// the same row of a prefill.
#pragma once
#include "panel_gemm.h"

namespace lynx::LYNX_ISA::prefix_attention {

/// The rows [first, first + count) of a span that has `all` of them.
struct SpanRows {
  int64_t first, count, all;
};

/// `Math` as in panel_gemm.h; keys and values are rows of T: float, bf16 or int8_t.
template <class Math>
struct Stream {
  static constexpr int64_t kPerWord = PanelGemm<Math>::kPerWord;
  static constexpr int64_t kRows = 8;                       // keys, and values, at a time
  static constexpr int64_t kStep = kWidth == 16 ? 32 : 16;  // words of the head dim at a time: one or two chunks
  static constexpr int kVectors = kWidth == 16 ? 8 : 4;     // vectors of an output row in registers
  static_assert(Math::kChunk == 16);

  /// s[r][n] = a[r] . key[n] for n < kRows; a is words, filled up to kStep with zeros; s has rows of kSpan.
  template <class T>
  static void scores(float* s, const float* a, int64_t lda, int64_t rows, const T* const (&key)[kRows], int64_t offset,
                     int64_t dim) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) scores_of<4>(s + r * kSpan, a + r * lda, lda, key, offset, dim);
    for (; r < rows; ++r) scores_of<1>(s + r * kSpan, a + r * lda, lda, key, offset, dim);
  }

  /// o[r] (+)= sum over j < count of p[r][j] value[j]; p is words of the depth with rows of kSpan numbers. A chunk of the
  /// depth that goes on with the next rows waits in `chunk`, which has rows as o.
  template <class T>
  static void values(float* o, float* chunk, int64_t ldo, const float* p, int64_t rows, const T* const (&value)[kRows],
                     int64_t offset, const SpanRows& part, int64_t dim) {
    int64_t r = 0;
    for (; r + 4 <= rows; r += 4) {  // four rows share what was interleaved or widened
      values_of_rows<4, kVectors / 2>(o + r * ldo, chunk + r * ldo, ldo, p + r * kSpan / kPerWord, value, offset, part,
                                      dim);
    }
    for (; r < rows; ++r) {
      values_of_rows<1, kVectors>(o + r * ldo, chunk + r * ldo, ldo, p + r * kSpan / kPerWord, value, offset, part,
                                  dim);
    }
  }

 private:
  template <class T>
  LYNX_INLINE static Vec load_key(const T* key, int64_t step, int64_t dim) {
    const int64_t left = dim - step * kPerWord;
    return left >= kWidth * kPerWord ? Math::load_full(key + step * kPerWord)
                                     : Math::load_words(key + step * kPerWord, left);
  }

  template <int M, class T>
  LYNX_INLINE static void scores_of(float* s, const float* a, int64_t lda, const T* const (&key)[kRows], int64_t offset,
                                    int64_t dim) {
    __m256 total[M];
    for (int64_t step = 0; step * kPerWord < dim; step += kStep) {
      Vec sum[M];
      for (int m = 0; m < M; ++m) sum[m] = zero();
#if defined(__AVX512F__)
      Vec square[kWidth];  // two chunks side by side: lanes 0-7 are the keys in one, 8-15 in the next
      for (int i = 0; i < kRows; ++i) square[i] = load_key(key[i] + offset, step, dim);
      for (int i = 0; i < kRows; ++i) square[kRows + i] = load_key(key[i] + offset, step + kWidth, dim);
      transpose_vectors(square);
      for (int i = 0; i < kWidth; ++i) {
        for (int m = 0; m < M; ++m) {
          const float* const a_m = a + m * lda + step + i;
          const Vec both = _mm512_mask_mov_ps(set1(a_m[0]), 0xff00, set1(a_m[kWidth]));
          sum[m] = Math::multiply_add(both, square[i], sum[m]);
        }
      }
      for (int m = 0; m < M; ++m) {
        const __m256 first = _mm512_castps512_ps256(sum[m]);
        total[m] = _mm256_add_ps(step == 0 ? first : _mm256_add_ps(total[m], first), _mm512_extractf32x8_ps(sum[m], 1));
      }
#else
      for (int64_t half = 0; half < kStep; half += kWidth) {
        Vec square[kWidth];
        for (int i = 0; i < kRows; ++i) square[i] = load_key(key[i] + offset, step + half, dim);
        transpose_vectors(square);
        for (int i = 0; i < kWidth; ++i) {
          for (int m = 0; m < M; ++m) {
            sum[m] = Math::multiply_add(set1(a[m * lda + step + half + i]), square[i], sum[m]);
          }
        }
      }
      for (int m = 0; m < M; ++m) total[m] = step == 0 ? sum[m] : add(total[m], sum[m]);
#endif
    }
    for (int m = 0; m < M; ++m) _mm256_storeu_ps(s + m * kSpan, total[m]);
  }

  template <int M, int N, class T>
  LYNX_INLINE static void values_of_rows(float* o, float* chunk, int64_t ldo, const float* p,
                                         const T* const (&value)[kRows], int64_t offset, const SpanRows& part,
                                         int64_t dim) {
    int64_t d = 0;
    for (; d + N * kWidth <= dim; d += N * kWidth) {
      values_of<M, N, true>(o + d, chunk + d, ldo, p, value, offset + d, part, dim - d);
    }
    for (; d < dim; d += 2 * kWidth) {
      values_of<M, 2, false>(o + d, chunk + d, ldo, p, value, offset + d, part, dim - d);
    }
  }

  /// M rows and N vectors of them; kFull: all of the vectors' columns are there.
  template <int M, int N, bool kFull, class T>
  LYNX_INLINE static void values_of(float* o, float* chunk, int64_t ldo, const float* p, const T* const* value,
                                    int64_t offset, const SpanRows& part, int64_t dim) {
    constexpr int64_t kChunkRows = min_of(Math::kKeyChunk * kPerWord, kSpan);
    const bool starts = part.first % kChunkRows == 0;
    const bool ends = (part.first + kRows) % kChunkRows == 0 || part.first + kRows >= part.all;
    Vec sum[M][N];
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) sum[m][n] = starts ? zero() : load(chunk + m * ldo + n * kWidth);
    }
    for (int64_t step = 0; step * kPerWord < part.count; ++step) {
      for (int n = 0; n < N; n += kPerWord) {
        const int64_t left = kFull ? kWidth * kPerWord : dim - n * kWidth;
        Vec words[kPerWord];
        Math::load_depth(words, value, step, part.count, offset + n * kWidth, left);
        for (int m = 0; m < M; ++m) {
          const Vec p_m = set1(p[m * (kSpan / kPerWord) + step]);
          for (int i = 0; i < kPerWord; ++i) sum[m][n + i] = Math::multiply_add(p_m, words[i], sum[m][n + i]);
        }
      }
    }
    const bool adds = ends && part.first >= kChunkRows;
    for (int m = 0; m < M; ++m) {
      float *const o_m = o + m * ldo, *const out = ends ? o_m : chunk + m * ldo;
      for (int n = 0; n < N && n * kWidth < dim; ++n) {
        store(out + n * kWidth, adds ? add(load(o_m + n * kWidth), sum[m][n]) : sum[m][n]);
      }
    }
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
