// Full 1 KiB tiles for tile_dp_bf16 from bfloat16 matrices in memory, edges filled with zeros.
//
//   pack_a_tile    A[m][k] from `rows` x `depth` numbers, one row of A after the other
//   pack_bt_tile   B[k][n] from the rows of B^T: a weight [N, K] of y = x W^T, or the keys of q k^T
//   pack_b_tile    B[k][n] from the rows of B: the values of p v
//
// `ld` counts elements between rows. A zero beyond the edge adds 0 * 0: it never meets data, so no NaN spreads.
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"
#include "tile.h"

namespace lynx::LYNX_ISA {

/// tile[m][k] = a[m * ld + k] for m < rows <= 16, k < depth <= 32.
LYNX_INLINE void pack_a_tile(bf16* tile, const bf16* a, int64_t ld, int64_t rows, int64_t depth) {
  __builtin_memset(tile, 0, kTileElements * sizeof(bf16));
  for (int64_t m = 0; m < rows; ++m) __builtin_memcpy(tile + m * kTileDepth, a + m * ld, depth * sizeof(bf16));
}

/// tile[k / 2][n][k % 2] = bt[n * ld + k] for n < columns <= 16, k < depth <= 32.
LYNX_INLINE void pack_bt_tile(bf16* tile, const bf16* bt, int64_t ld, int64_t columns, int64_t depth) {
  __builtin_memset(tile, 0, kTileElements * sizeof(bf16));
  for (int64_t n = 0; n < columns; ++n) {
    for (int64_t k = 0; k < depth; ++k) tile[(k / 2) * kTileDepth + 2 * n + k % 2] = bt[n * ld + k];
  }
}

/// tile[k / 2][n][k % 2] = b[k * ld + n] for k < depth <= 32, n < columns <= 16.
LYNX_INLINE void pack_b_tile(bf16* tile, const bf16* b, int64_t ld, int64_t depth, int64_t columns) {
  __builtin_memset(tile, 0, kTileElements * sizeof(bf16));
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t n = 0; n < columns; ++n) tile[(k / 2) * kTileDepth + 2 * n + k % 2] = b[k * ld + n];
  }
}

}  // namespace lynx::LYNX_ISA
