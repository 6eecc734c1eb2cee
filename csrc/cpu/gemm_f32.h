// The float32 block product of the AVX2 and AVX-512 backends: C [kRows x kColumns] = A [kRows x K] @ B [K x kColumns].
//
// Both operands are packed so that the inner loop reads memory in order: for one k, kRows numbers of A lie side by side
// and are broadcast, kColumns numbers of B lie side by side and are loaded as two vectors.
//
// Each element of C is one chain of fused multiply-adds per 256 values of k, the chains added in order. Neither the
// other rows of the block nor the other columns enter it: results do not depend on how work is cut into blocks.
#pragma once
#include <cstdint>

#include "isa.h"
#include "vec.h"

namespace lynx::LYNX_ISA {

constexpr int kColumns = 2 * kWidth;
constexpr int kRows = kWidth == 16 ? 14 : 6;  // with two B vectors and a broadcast: 31 of 32, 15 of 16 registers
constexpr int64_t kChain = 256;

/// panel[k][m] = a[m * ld + k] for m < rows <= kRows; rows beyond are 0. `panel` holds depth * kRows numbers.
LYNX_INLINE void pack_a_panel(float* panel, const float* a, int64_t ld, int64_t rows, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t m = 0; m < kRows; ++m) panel[k * kRows + m] = m < rows ? a[m * ld + k] : 0.0f;
  }
}

/// panel[k][n] = bt[n * ld + k] for n < columns <= kColumns; columns beyond are 0. `panel` holds depth * kColumns.
LYNX_INLINE void pack_bt_panel(float* panel, const float* bt, int64_t ld, int64_t columns, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = 0; n < kColumns; ++n) panel[k * kColumns + n] = n < columns ? bt[n * ld + k] : 0.0f;
  }
}

/// c[m][0..kColumns) = (accumulate ? c : 0) + a_panel @ b_panel over at most kChain values of k; c is dense.
template <int Rows>
LYNX_INLINE void multiply_chain(const float* a, const float* b, int64_t depth, bool accumulate, float* c) {
  Vec sum[Rows][2];
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) sum[m][0] = sum[m][1] = zero();
  for (int64_t k = 0; k < depth; ++k) {
    const Vec b0 = load(b + k * kColumns);
    const Vec b1 = load(b + k * kColumns + kWidth);
#pragma GCC unroll 16
    for (int m = 0; m < Rows; ++m) {
      const Vec a_m = set1(a[k * kRows + m]);
      sum[m][0] = fma(a_m, b0, sum[m][0]);
      sum[m][1] = fma(a_m, b1, sum[m][1]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < Rows; ++m) {
    float* row = c + m * kColumns;
    store(row, accumulate ? add(load(row), sum[m][0]) : sum[m][0]);
    store(row + kWidth, accumulate ? add(load(row + kWidth), sum[m][1]) : sum[m][1]);
  }
}

/// c [kRows][kColumns] = a_panel @ b_panel. Computes (and writes) the first `rows` rows only.
template <int Rows = kRows>
inline void multiply_panels(const float* a, const float* b, int64_t rows, int64_t depth, float* c) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return multiply_panels<Rows - 1>(a, b, rows, depth, c);
  }
  for (int64_t k = 0; k < depth || k == 0; k += kChain) {
    const int64_t length = depth - k < kChain ? depth - k : kChain;
    multiply_chain<Rows>(a + k * kRows, b + k * kColumns, length, k > 0, c);
  }
}

}  // namespace lynx::LYNX_ISA
