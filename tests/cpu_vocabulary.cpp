// csrc/cpu under plain C names for tests/test_tiles.py and tests/test_vec.py, which compile this file for each ISA.
#include "cpu/gemm_f32.h"
#include "cpu/vec.h"
#if defined(LYNX_EMULATE_TILES) || defined(__AMX_TILE__)
#include "cpu/gemm_bf16.h"
#endif

using namespace lynx::LYNX_ISA;
using lynx::bf16;

namespace {

template <class From, class To, class Function>
void map(const From* x, To* y, int64_t n, Function function) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, function(load(x + i)));
  store_tail(y + i, function(load_tail(x + i, n - i)), n - i);
}

}  // namespace

extern "C" {

int width() { return kWidth; }
int rows_of_block() { return kRows; }
void exp_of(const float* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return vexp(v); });
}
void silu_of(const float* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return silu(v); });
}
void narrow(const float* x, bf16* y, int64_t n) {
  map(x, y, n, [](Vec v) { return v; });
}
void widen(const bf16* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return v; });
}
void widen_bytes(const uint8_t* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return v; });
}
void narrow_scalar(const float* x, bf16* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = to_bf16(x[i]);
}
float sum_of_lanes(const float* x) { return hsum(load(x)); }
float largest_lane(const float* x) { return hmax(load(x)); }

// c [rows, columns] = a [rows, depth] @ bt [columns, depth]^T for one block; panels hold the packed operands.
void multiply_block(const float* a, const float* bt, int64_t rows, int64_t columns, int64_t depth, float* a_panel,
                    float* b_panel, float* c) {
  float block[kRows * kColumns];
  pack_a_panel(a_panel, a, depth, rows, depth);
  pack_bt_panel(b_panel, bt, depth, columns, depth);
  multiply_panels(a_panel, b_panel, rows, depth, block);
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t n = 0; n < columns; ++n) c[m * columns + n] = block[m * kColumns + n];
  }
}

#if defined(LYNX_EMULATE_TILES) || defined(__AMX_TILE__)

// c += a @ b with the tile shapes of the 64 bytes at `shapes`; every operand has 64 bytes a row.
void dot_product(const void* shapes, const void* a, const void* b, void* c) {
  TileConfig config;
  __builtin_memcpy(&config, shapes, sizeof config);
  tile_config(config);
  tile_load<0>(c, kTileBytes);
  tile_load<1>(a, kTileBytes);
  tile_load<2>(b, kTileBytes);
  tile_dp_bf16<0, 1, 2>();
  tile_store<0>(c, kTileBytes);
  tile_release();
}

void load_unconfigured(const void* rows) { tile_load<0>(rows, kTileBytes); }

// c [32, 32] = a [rows, depth] @ bt [columns, depth]^T.
void multiply_strip(const bf16* a, const bf16* bt, int64_t rows, int64_t columns, int64_t depth, bf16* a_strip,
                    bf16* b_strip, float* c) {
  pack_a_strip(a_strip, a, depth, rows, depth);
  pack_bt_strip(b_strip, bt, depth, columns, depth);
  TileScope tiles;
  multiply_strips(a_strip, b_strip, depth_steps(depth), c);
}

void interleave(const bf16* b, int64_t ld, int64_t depth, int64_t columns, bf16* tile) {
  pack_b_tile(tile, b, ld, depth, columns);
}

#endif

}  // extern "C"
