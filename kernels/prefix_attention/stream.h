// A few queries against many keys: nothing is used often enough to be packed, and reading keys and values is all the time
// there is. Keys are transposed in registers on their way into the products, values used where they lie; 16 rows at a
// time and one head after the other, so that memory is read nearly in the order of its addresses.
//
// A number is the chain of multiply-adds that panel_gemm.h makes of it, in the same order: a decoded row has the bits of
// the same row of a prefill.
#pragma once
#include "panel_gemm.h"

namespace lynx::LYNX_ISA::prefix_attention {

/// `Math` as in panel_gemm.h; keys and values are rows of T: float, bf16 or int8_t.
template <class Math>
struct Stream {
  static constexpr int64_t kPerWord = PanelGemm<Math>::kPerWord;
  static constexpr int64_t kRows = 16;                   // keys, and values, at a time: a chunk of FloatMath
  static constexpr int kVectors = kWidth == 16 ? 8 : 4;  // vectors of an output row in registers

  /// s[r][n] = a[r] . key[n] for n < kRows; a is words, s has rows of kSpan.
  template <class T>
  static void scores(float* s, const float* a, int64_t lda, int64_t rows, const T* const (&key)[kRows], int64_t offset,
                     int64_t dim) {
    for (int64_t n = 0; n < kRows; n += kWidth) {
      for (int64_t r = 0; r < rows; r += 4) {
        const float* const a_r = a + r * lda;
        float* const s_rn = s + r * kSpan + n;
        switch (min_of(4, rows - r)) {
          case 4:
            scores_of<4>(s_rn, a_r, lda, key + n, offset, dim);
            break;
          case 3:
            scores_of<3>(s_rn, a_r, lda, key + n, offset, dim);
            break;
          case 2:
            scores_of<2>(s_rn, a_r, lda, key + n, offset, dim);
            break;
          default:
            scores_of<1>(s_rn, a_r, lda, key + n, offset, dim);
        }
      }
    }
  }

  /// o[r] (+)= sum over j < count <= kRows of p[r][j] value[j]; p is words of the depth with rows of kSpan numbers.
  template <class T>
  static void values(float* o, int64_t ldo, const float* p, int64_t rows, const T* const (&value)[kRows],
                     int64_t offset, int64_t count, int64_t dim, bool accumulate) {
    for (int64_t r = 0; r < rows; ++r) {
      int64_t d = 0;
      for (; d + kVectors * kWidth <= dim; d += kVectors * kWidth) {
        values_of<kVectors>(o + r * ldo + d, p + r * kSpan / kPerWord, value, offset + d, count, dim - d, accumulate);
      }
      for (; d < dim; d += 2 * kWidth) {
        values_of<2>(o + r * ldo + d, p + r * kSpan / kPerWord, value, offset + d, count, dim - d, accumulate);
      }
    }
  }

 private:
  template <int M, class T>
  LYNX_INLINE static void scores_of(float* s, const float* a, int64_t lda, const T* const* key, int64_t offset,
                                    int64_t dim) {
    const int64_t steps = ceil_div(dim, kPerWord);
    Vec total[M], chunk[M];
    for (int m = 0; m < M; ++m) total[m] = chunk[m] = zero();
    for (int64_t step = 0; step < steps; step += kWidth) {
      const int64_t d = step * kPerWord;
      Vec square[kWidth];
      const int64_t count = min_of(kWidth, steps - step);
      if (dim - d >= kWidth * kPerWord) {
        for (int i = 0; i < kWidth; ++i) square[i] = Math::load_full(key[i] + offset + d);
        transpose(square);
        for (int i = 0; i < kWidth; ++i) add_step<M>(chunk, a + step + i, lda, square[i]);
      } else {
        for (int i = 0; i < kWidth; ++i) square[i] = Math::load_words(key[i] + offset + d, dim - d);
        transpose(square);
        for (int i = 0; i < kWidth; ++i) {
          if (i < count) add_step<M>(chunk, a + step + i, lda, square[i]);
        }
      }
      const int64_t done = step + count;
      if (done % Math::kChunk != 0 && done < steps) continue;
      for (int m = 0; m < M; ++m) {
        total[m] = done <= Math::kChunk ? chunk[m] : add(total[m], chunk[m]);
        chunk[m] = zero();
      }
    }
    for (int m = 0; m < M; ++m) store(s + m * kSpan, total[m]);
  }

  template <int M>
  LYNX_INLINE static void add_step(Vec (&sum)[M], const float* a, int64_t lda, Vec keys) {
    for (int m = 0; m < M; ++m) sum[m] = Math::multiply_add(set1(a[m * lda]), keys, sum[m]);
  }

  /// Chains that are longer than kRows go on from o; chunks of kRows are added to it.
  template <int N, class T>
  LYNX_INLINE static void values_of(float* o, const float* p, const T* const* value, int64_t offset, int64_t count,
                                    int64_t dim, bool accumulate) {
    constexpr bool kChained = Math::kKeyChunk * kPerWord > kRows;
    Vec sum[N];
    for (int n = 0; n < N; ++n) sum[n] = kChained && accumulate ? load(o + n * kWidth) : zero();
    constexpr bool full = N == kVectors;
    for (int64_t step = 0; step * kPerWord < count; ++step) {
      const Vec p_step = set1(p[step]);
      for (int n = 0; n < N; n += kPerWord) {
        Vec words[kPerWord];
        Math::load_depth(words, value, step, count, offset + n * kWidth, full ? kPerWord * kWidth : dim - n * kWidth);
        for (int i = 0; i < kPerWord; ++i) sum[n + i] = Math::multiply_add(p_step, words[i], sum[n + i]);
      }
    }
    for (int n = 0; n < N && n * kWidth < dim; ++n) {
      float* const o_n = o + n * kWidth;
      store(o_n, !kChained && accumulate ? add(load(o_n), sum[n]) : sum[n]);
    }
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
