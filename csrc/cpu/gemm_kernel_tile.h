// gemm_kernel.h on AMX tiles: 2 x 2 tiles of sums, 32 rows of A against 32 columns of B, 32 values of k a step.
#pragma once
#include "tile.h"
#include "vec.h"

namespace lynx::LYNX_ISA {

using Operand = bf16;
constexpr int64_t kStepK = kTileDepth;
constexpr int64_t kBlockRows = 2 * kTileRows;
constexpr int64_t kPanelStrips = 2;

/// First row of a block: whole blocks, since a tile writes all of its rows.
LYNX_INLINE int64_t block_begin(int64_t block, int64_t, int64_t rows) {
  return block * kBlockRows < rows ? block * kBlockRows : rows;
}

/// The lines of both strips that this step fetches.
LYNX_INLINE void fetch_ahead(Ahead& ahead) {
  for (int s = 0; s < 2; ++s) {
    for (int64_t byte = 0; byte < ahead.step; byte += 64) _mm_prefetch(ahead.strips[s] + byte, _MM_HINT_T1);
    ahead.strips[s] += ahead.step;
  }
}

/// sums[i][0..32) (+)= a[i] times the panel; up to 16 rows more than `rows` are read and written, to the whole tile.
template <bool kTwo>
void dot_tiles(const bf16* a, int64_t lda, const bf16* const* strips, int64_t depth, float* sums, int64_t ld,
               bool first, Ahead ahead) {
  const int64_t row_bytes = lda * static_cast<int64_t>(sizeof(bf16)),
                sum_bytes = ld * static_cast<int64_t>(sizeof(float));
  float* lower = sums + kTileRows * ld;
  if (first) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  } else {
    tile_load<0>(sums, sum_bytes);
    tile_load<1>(sums + kTileRows, sum_bytes);
    if (kTwo) tile_load<2>(lower, sum_bytes);
    if (kTwo) tile_load<3>(lower + kTileRows, sum_bytes);
  }
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    fetch_ahead(ahead);
    tile_load<4>(a + k, row_bytes);
    tile_load<6>(strips[0] + k * kTileRows, kTileBytes);
    tile_dp_bf16<0, 4, 6>();
    tile_load<7>(strips[1] + k * kTileRows, kTileBytes);
    tile_dp_bf16<1, 4, 7>();
    if (!kTwo) continue;
    tile_load<5>(a + kTileRows * lda + k, row_bytes);
    tile_dp_bf16<2, 5, 6>();
    tile_dp_bf16<3, 5, 7>();
  }
  tile_store<0>(sums, sum_bytes);
  tile_store<1>(sums + kTileRows, sum_bytes);
  if (kTwo) tile_store<2>(lower, sum_bytes);
  if (kTwo) tile_store<3>(lower + kTileRows, sum_bytes);
}

LYNX_INLINE void dot_block(int64_t rows, const bf16* a, int64_t lda, const bf16* const* strips, int64_t depth,
                           float* sums, int64_t ld, bool first, const Ahead& ahead) {
  rows > kTileRows ? dot_tiles<true>(a, lda, strips, depth, sums, ld, first, ahead)
                   : dot_tiles<false>(a, lda, strips, depth, sums, ld, first, ahead);
}

}  // namespace lynx::LYNX_ISA
