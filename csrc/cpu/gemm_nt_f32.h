// gemm_nt.h on vectors. Neither operand is packed: every output is one vector of partial sums along K, four rows of A
// against four of B in registers, summed across its lanes at the end.
#pragma once
#include <cstddef>

#include "core/parallel.h"
#include "cpu/vec.h"

namespace lynx::LYNX_ISA {

constexpr int64_t kGemmRows = 64;  // A block: 64 x 512 floats, 128 KB of L2
constexpr int64_t kGemmCols = 16;  // B block: 16 x 512 floats, 32 KB of L1
constexpr int64_t kGemmDepth = 512;
constexpr int kDotRows = kWidth == 16 ? 4 : 2;  // 4x4 accumulators in 32 registers, 2x4 in 16
constexpr int kDotCols = 4;
constexpr double kSerialFlops = 4e5;  // below about 5 us of one thread, waking a second one costs more than it brings

/// The sums of four vectors, each lane-summed in the same fixed order.
LYNX_INLINE __m128 hsum4(Vec a, Vec b, Vec c, Vec d) {
#if defined(__AVX512F__)
  const auto fold = [](Vec v) __attribute__((always_inline)) {
    return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  };
  const __m256 ab = _mm256_hadd_ps(fold(a), fold(b)), cd = _mm256_hadd_ps(fold(c), fold(d));
#else
  const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
#endif
  const __m256 abcd = _mm256_hadd_ps(ab, cd);
  return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

/// out[i][0..3] += dot(a row i, b rows 0..3) over k elements; `out` rows are kGemmCols apart.
template <int Rows, class B>
LYNX_INLINE void dot_tile(const float* a, int64_t lda, const B* const (&b)[kDotCols], int64_t k, float* out) {
  Vec sum[Rows][kDotCols];
  for (int i = 0; i < Rows; ++i)
    for (int j = 0; j < kDotCols; ++j) sum[i][j] = zero();
  const auto step = [&](auto load_at) __attribute__((always_inline)) {
    Vec bv[kDotCols];
    for (int j = 0; j < kDotCols; ++j) bv[j] = load_at(b[j]);
    for (int i = 0; i < Rows; ++i) {
      const Vec av = load_at(a + i * lda);
      for (int j = 0; j < kDotCols; ++j) sum[i][j] = fma(av, bv[j], sum[i][j]);
    }
  };
  int64_t p = 0;
  for (; p + kWidth <= k; p += kWidth)
    step([p](const auto* row) __attribute__((always_inline)) { return load(row + p); });
  if (p < k) step([p, k](const auto* row) __attribute__((always_inline)) { return load_tail(row + p, k - p); });
  for (int i = 0; i < Rows; ++i) {
    float* row = out + i * kGemmCols;
    _mm_storeu_ps(row, _mm_add_ps(_mm_loadu_ps(row), hsum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3])));
  }
}

template <class B>
LYNX_INLINE void dot_rows(int rows, const float* a, int64_t lda, const B* const (&b)[kDotCols], int64_t k, float* out) {
  if (rows == 1) return dot_tile<1>(a, lda, b, k, out);
  if (rows == 2) return dot_tile<2>(a, lda, b, k, out);
  if (rows == 3) return dot_tile<kDotRows == 4 ? 3 : 2>(a, lda, b, k, out);
  dot_tile<kDotRows>(a, lda, b, k, out);
}

/// out[rows][kGemmCols] = A block times B block; columns past `cols` hold copies that nobody reads.
template <class B>
void gemm_block(const float* a, int64_t lda, int64_t rows, const B* b, int64_t ldb, int64_t cols, int64_t k,
                float* out) {
  for (int64_t i = 0; i < rows * kGemmCols; ++i) out[i] = 0.0f;
  for (int64_t p = 0; p < k; p += kGemmDepth) {
    const int64_t depth = k - p < kGemmDepth ? k - p : kGemmDepth;
    for (int64_t j = 0; j < cols; j += kDotCols) {
      const B* columns[kDotCols];
      for (int c = 0; c < kDotCols; ++c) columns[c] = b + (j + c < cols ? j + c : cols - 1) * ldb + p;
      for (int64_t i = 0; i < rows; i += kDotRows) {
        const int count = static_cast<int>(rows - i < kDotRows ? rows - i : kDotRows);
        dot_rows(count, a + i * lda + p, lda, columns, depth, out + i * kGemmCols + j);
      }
    }
  }
}

template <class A>
constexpr int64_t gemm_nt_scratch(int64_t, int64_t) {
  return 0;
}

template <class B, class Epilogue>
void gemm_nt(const float* a, int64_t lda, const B* b, int64_t ldb, int64_t M, int64_t N, int64_t K, std::byte*,
             const Epilogue& epilogue) {
  const int64_t row_blocks = (M + kGemmRows - 1) / kGemmRows, col_blocks = (N + kGemmCols - 1) / kGemmCols;
  const auto block = [&](int64_t index, int) {
    const int64_t m = index / col_blocks * kGemmRows, n = index % col_blocks * kGemmCols;
    const int64_t rows = M - m < kGemmRows ? M - m : kGemmRows, cols = N - n < kGemmCols ? N - n : kGemmCols;
    alignas(64) float sums[kGemmRows * kGemmCols];
    gemm_block(a + m * lda, lda, rows, b + n * ldb, ldb, cols, K, sums);
    for (int64_t i = 0; i < rows; ++i) epilogue(m + i, n, cols, sums + i * kGemmCols);
  };
  parallel_for(row_blocks * col_blocks, block, 2.0 * M * N * K > kSerialFlops);
}

}  // namespace lynx::LYNX_ISA
