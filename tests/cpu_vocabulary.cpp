// csrc/cpu under plain C names for tests/test_tiles.py and tests/test_vec.py, which compile this file for each ISA.
#include "cpu/gemm_panels.h"
#include "cpu/gemm_rows.h"
#include "cpu/pair.h"
#include "cpu/vec.h"
#if defined(LYNX_HAS_TILES)
#include "cpu/tile.h"
#endif

// The thread pool of csrc/core in one thread.
void lynx::detail::run_tasks(int64_t count, bool, Task task, void* context) {
  for (int64_t i = 0; i < count; ++i) task(context, i, 0);
}

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
void exp_of(const float* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return vexp(v); });
}
void silu_of(const float* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return silu(v); });
}
void reciprocal_of(const float* x, float* y, int64_t n) {
  map(x, y, n, [](Vec v) { return reciprocal(v); });
}
void rounded_pairs(const float* x, float* y, int64_t n) {
  for_pairs(n, [&](int64_t i, int64_t some) { store_pair(y + i, rounded_as<bf16>(load_pair(x + i, some)), some); });
}
void halved_pairs(const bf16* x, bf16* y, int64_t n) {
  const Pair half = both(set1(0.5f));
  for_pairs(n, [&](int64_t i, int64_t some) { store_pair(y + i, both(mul, load_pair(x + i, some), half), some); });
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

// c [M, N] = a [M, K] @ b [N, K]^T; counts[m, n] is how many segments hold the element.
void multiply(const Operand* a, const Operand* b, int64_t M, int64_t N, int64_t K, void* scratch, float* c,
              int32_t* counts) {
  lynx::Arena arena(static_cast<std::byte*>(scratch));
  const Rows rows{arena.take<Operand>(Rows::elements(M, K)), Rows::distance(K), M, K};
  fill_rows(PlainRows<Operand>{a, K, K}, 0, rows);
  multiply(rows, TransposedB<Operand>{b, K, N, K}, N, GemmScratch{arena.take<std::byte>(0), M, 1},
           [&](int64_t m, int64_t n, int64_t count, const float* sums) {
             for (int64_t i = 0; i < count; ++i) {
               c[m * N + n + i] = sums[i];
               ++counts[m * N + n + i];
             }
           });
}
int64_t scratch_bytes(int64_t M, int64_t K) {
  return lynx::aligned_bytes(Rows::elements(M, K), sizeof(Operand)) + GemmScratch::bytes(M, 1);
}

#if defined(LYNX_HAS_TILES)

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

void configure() { TileScope tiles; }
void load_unconfigured(const void* rows) { tile_load<0>(rows, kTileBytes); }

#endif

}  // extern "C"
