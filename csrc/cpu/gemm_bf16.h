// The bfloat16 block product of the AMX backend: C [32 x 32] float32 = A [32 x K] @ B [K x 32], four tiles of C at once.
//
// A strip of A is 32 rows packed as [K / 32 rounded up][2] tiles of 16 rows (pack_a_tile), a strip of B is 32 columns
// packed as [K / 32 rounded up][2] tiles of 16 columns (pack_bt_tile or pack_b_tile): one k step is 2 KiB in order.
// Rows and columns beyond the matrix are zero tiles' rows: they give zeros, which the caller does not store.
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"
#include "tile_pack.h"

namespace lynx::LYNX_ISA {

constexpr int kStrip = 2 * kTileRows;

LYNX_INLINE int64_t depth_steps(int64_t depth) { return (depth + kTileDepth - 1) / kTileDepth; }
/// bfloat16 numbers in a strip of `depth` values of k.
LYNX_INLINE int64_t strip_elements(int64_t depth) { return depth_steps(depth) * 2 * kTileElements; }

LYNX_INLINE int64_t at_most(int64_t value, int64_t limit) { return value < 0 ? 0 : value < limit ? value : limit; }

/// The A strip of rows a[m * ld + k], m < rows <= 32.
inline void pack_a_strip(bf16* strip, const bf16* a, int64_t ld, int64_t rows, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    const int64_t length = at_most(depth - k, kTileDepth);
    for (int64_t m = 0; m < kStrip; m += kTileRows, strip += kTileElements) {
      pack_a_tile(strip, a + m * ld + k, ld, at_most(rows - m, kTileRows), length);
    }
  }
}

/// The B strip of columns bt[n * ld + k], n < columns <= 32: for y = x W^T, rows of W.
inline void pack_bt_strip(bf16* strip, const bf16* bt, int64_t ld, int64_t columns, int64_t depth) {
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    const int64_t length = at_most(depth - k, kTileDepth);
    for (int64_t n = 0; n < kStrip; n += kTileRows, strip += kTileElements) {
      pack_bt_tile(strip, bt + n * ld + k, ld, at_most(columns - n, kTileRows), length);
    }
  }
}

/// c [32][32] = A strip @ B strip. Needs a TileScope; every element sums its k in order, whatever the other rows are.
inline void multiply_strips(const bf16* a, const bf16* b, int64_t steps, float* c) {
  constexpr int64_t kRowBytes = kTileBytes;
  constexpr int64_t kCBytes = kStrip * sizeof(float);
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t step = 0; step < steps; ++step, a += 2 * kTileElements, b += 2 * kTileElements) {
    tile_load<4>(a, kRowBytes);
    tile_load<6>(b, kRowBytes);
    tile_dp_bf16<0, 4, 6>();
    tile_load<7>(b + kTileElements, kRowBytes);
    tile_dp_bf16<1, 4, 7>();
    tile_load<5>(a + kTileElements, kRowBytes);
    tile_dp_bf16<2, 5, 6>();
    tile_dp_bf16<3, 5, 7>();
  }
  tile_store<0>(c, kCBytes);
  tile_store<1>(c + kTileRows, kCBytes);
  tile_store<2>(c + kTileRows * kStrip, kCBytes);
  tile_store<3>(c + kTileRows * kStrip + kTileRows, kCBytes);
}

}  // namespace lynx::LYNX_ISA
