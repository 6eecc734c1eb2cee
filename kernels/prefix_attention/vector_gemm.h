// Small float32 matrix products by vector FMA, with their operands packed in L1/L2: C (+)= A B.
//
// A number of C is one chain of fused multiply-adds in the order of k, whatever tile it falls into: the result of a row
// does not depend on its neighbours, and a decoded row equals the same row of a prefill.
#pragma once
#include <cstdint>
#include <type_traits>

#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

struct VectorGemm {
  using Operand = float;
  static constexpr int64_t kRowBlock = 96;
  static constexpr int64_t kDimMultiple = kWidth;  // packed head dims are padded to this with zeros
  static constexpr int64_t kColumnMultiple = kWidth;
  static constexpr int64_t kChunk = 16;  // numbers of k summed from zero at a time
  static constexpr int kTileM = 6;       // 6 x 4 accumulators of 32 registers, 6 x 2 of AVX2's 16
  static constexpr int kTileN = kWidth == 16 ? 4 : 2;

  struct Scope {};  // what a thread needs to hold while it multiplies: nothing

  /// dst[r][d] = src[r][d]: rows as they are, for A [rows, depth] and for B [depth, columns].
  template <class T>
  LYNX_INLINE static void pack_rows(float* dst, int64_t ld, Rows<const T> src, int64_t rows, int64_t dim) {
    for (int64_t r = 0; r < rows; ++r) {
      for_vectors(dim, [&](int64_t d, int64_t n) { store(dst + r * ld + d, load_some(src[r] + d, n)); });
    }
  }
  template <class T>
  LYNX_INLINE static void pack_a(float* a, int64_t ld, Rows<const T> src, int64_t rows, int64_t depth) {
    pack_rows(a, ld, src, rows, depth);
  }
  template <class T>
  LYNX_INLINE static void pack_b(float* b, int64_t ld, Rows<const T> src, int64_t depth, int64_t columns) {
    pack_rows(b, ld, src, depth, columns);
  }

  /// b[d][n] = src[n][d] for n < columns <= kColumns, zero up to the next multiple of four.
  template <class T>
  static void pack_bt(float* b, Rows<const T> src, int64_t columns, int64_t depth) {
    alignas(64) float copies[4][kMaxHeadDim];
    for (int64_t n = 0; n < columns; n += 4) {
      const float* rows[4];
      for (int64_t r = 0; r < 4; ++r) rows[r] = as_floats(copies[r], src, n + r, columns, depth);
      for (int64_t d = 0; d < depth; d += 4) {
        __m128 r0 = _mm_loadu_ps(rows[0] + d), r1 = _mm_loadu_ps(rows[1] + d);
        __m128 r2 = _mm_loadu_ps(rows[2] + d), r3 = _mm_loadu_ps(rows[3] + d);
        _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
        float* column = b + d * kColumns + n;
        _mm_store_ps(column, r0), _mm_store_ps(column + kColumns, r1);
        _mm_store_ps(column + 2 * kColumns, r2), _mm_store_ps(column + 3 * kColumns, r3);
      }
    }
  }

  /// Row n of src as floats that may be read up to the next multiple of four: in place, or copied, or zeros beyond `rows`.
  template <class T>
  LYNX_INLINE static const float* as_floats(float* copy, Rows<const T> src, int64_t n, int64_t rows, int64_t dim) {
    if (n >= rows) return static_cast<float*>(__builtin_memset(copy, 0, kMaxHeadDim * sizeof(float)));
    if constexpr (std::is_same_v<T, float>) {
      if (dim % 4 == 0) return src[n];
    }
    pack_rows(copy, kMaxHeadDim, Rows<const T>{src[n], src.ld}, 1, dim);
    return copy;
  }

  /// Scores are float32 already: they are A as they stand.
  LYNX_INLINE static const float* scores_as_a(float*, const float* scores, int64_t) { return scores; }

  /// C tile (+)= A B over one chunk of k, summed from zero: short chains keep the rounding error of long rows small.
  template <int M, int N>
  LYNX_INLINE static void tile(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb,
                               int64_t depth, bool accumulate) {
    Vec sum[M][N];
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) sum[m][n] = zero();
    }
    for (int64_t k = 0; k < depth; ++k) {
      Vec b_N[N];
      for (int n = 0; n < N; ++n) b_N[n] = load(b + k * ldb + n * kWidth);
      for (int m = 0; m < M; ++m) {
        const Vec a_mk = set1(a[m * lda + k]);
        for (int n = 0; n < N; ++n) sum[m][n] = fma(a_mk, b_N[n], sum[m][n]);
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int n = 0; n < N; ++n) {
        float* c_mn = c + m * ldc + n * kWidth;
        store(c_mn, accumulate ? add(load(c_mn), sum[m][n]) : sum[m][n]);
      }
    }
  }

  template <int N>
  LYNX_INLINE static void stripe(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb,
                                 int64_t rows, int64_t depth, bool accumulate) {
    int64_t m = 0;
    for (; m + kTileM <= rows; m += kTileM) {
      tile<kTileM, N>(c + m * ldc, ldc, a + m * lda, lda, b, ldb, depth, accumulate);
    }
    for (; m < rows; ++m) tile<1, N>(c + m * ldc, ldc, a + m * lda, lda, b, ldb, depth, accumulate);
  }

  /// C [rows, columns] (+)= A [rows, depth] B [depth, columns]; columns are padded to kWidth.
  static void multiply(float* c, int64_t ldc, const float* a, int64_t lda, const float* b, int64_t ldb, int64_t rows,
                       int64_t columns, int64_t depth, bool accumulate) {
    for (int64_t k = 0; k < depth; k += kChunk) {
      const int64_t chunk = min_of(kChunk, depth - k);
      const bool add_to_c = accumulate || k > 0;
      int64_t n = 0;
      for (; n + kTileN * kWidth <= columns; n += kTileN * kWidth) {
        stripe<kTileN>(c + n, ldc, a + k, lda, b + k * ldb + n, ldb, rows, chunk, add_to_c);
      }
      for (; n < columns; n += kWidth) stripe<1>(c + n, ldc, a + k, lda, b + k * ldb + n, ldb, rows, chunk, add_to_c);
    }
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
