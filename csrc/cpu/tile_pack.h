// Full 1 KiB tiles for tile_dp_bf16 from bfloat16 matrices in memory, edges filled with zeros.
//
//   pack_a_tile     A[m][k] from `rows` x `depth` numbers, one row of A after the other
//   pack_bt_tile    B[k][n] from the rows of B^T: a weight [N, K] of y = x W^T, or the keys of q k^T
//   pack_b_tile     B[k][n] from the rows of B: the values of p v
//
// `ld` counts elements between rows. A zero beyond the edge adds 0 * 0: it never meets data, so no NaN spreads.
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"
#include "tile.h"
#include "vec.h"

namespace lynx::LYNX_ISA {

constexpr int kStrip = 2 * kTileRows;

LYNX_INLINE void clear_tile(bf16* tile) { __builtin_memset(tile, 0, kTileElements * sizeof(bf16)); }

/// tile[m][k] = a[m * ld + k] for m < rows <= 16, k < depth <= 32.
LYNX_INLINE void pack_a_tile(bf16* tile, const bf16* a, int64_t ld, int64_t rows, int64_t depth) {
  clear_tile(tile);
  for (int64_t m = 0; m < rows; ++m) __builtin_memcpy(tile + m * kTileDepth, a + m * ld, depth * sizeof(bf16));
}

/// tile[k / 2][n][k % 2] = bt[n * ld + k] for n < columns <= 16, k < depth <= 32: a transpose of pairs.
LYNX_INLINE void pack_bt_tile(bf16* tile, const bf16* bt, int64_t ld, int64_t columns, int64_t depth) {
  if (columns < kTileRows || depth < kTileDepth) clear_tile(tile);
  for (int64_t n = 0; n < columns; ++n) {
    const bf16* column = bt + n * ld;
    bf16* pairs = tile + 2 * n;
    for (int64_t k = 0; k + 1 < depth; k += 2) __builtin_memcpy(pairs + k * kTileRows, column + k, 2 * sizeof(bf16));
    if (depth % 2 != 0) pairs[(depth - 1) * kTileRows] = column[depth - 1];
  }
}

/// tile[k / 2][n][k % 2] = b[k * ld + n] for k < depth <= 32, n < columns <= 16: two rows interleaved at a time.
LYNX_INLINE void pack_b_tile(bf16* tile, const bf16* b, int64_t ld, int64_t depth, int64_t columns) {
  const auto row = [&](int64_t k) {
    return k < depth ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(tail_mask(columns), b + k * ld))
                     : _mm512_setzero_si512();
  };
  for (int64_t k = 0; k < kTileDepth; k += 2) {
    _mm512_storeu_si512(tile + k * kTileRows, _mm512_or_si512(row(k), _mm512_slli_epi32(row(k + 1), 16)));
  }
}

/// bfloat16 numbers in a strip of `depth` values of k.
LYNX_INLINE int64_t strip_elements(int64_t depth) { return (depth + kTileDepth - 1) / kTileDepth * 2 * kTileElements; }

}  // namespace lynx::LYNX_ISA
