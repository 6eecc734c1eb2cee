#include "core/cpu_features.h"
#include "cpu/tile.h"
#include "probe.h"

#if !defined(LYNX_EMULATE_TILES)  // an emulated tile's speed is nobody's ceiling
namespace lynx::amx {
namespace {

/// C tiles 0..3 take products of A tiles 4, 5 and B tiles 6, 7: four chains, every operand in a register.
template <class Product>
LYNX_INLINE double tile_products(int64_t rounds, double depth, const Product& product) {
  const TileScope scope;
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  tile_zero<4>();
  tile_zero<5>();
  tile_zero<6>();
  tile_zero<7>();
  for (int64_t round = 0; round < rounds; ++round) product();
  return 4 * 2.0 * kTileRows * kTileRows * depth * static_cast<double>(rounds);
}

double tiles_bfloat16(int64_t rounds) {
  return tile_products(rounds, 32, [] {
    tile_dp_bf16<0, 4, 6>();
    tile_dp_bf16<1, 4, 7>();
    tile_dp_bf16<2, 5, 6>();
    tile_dp_bf16<3, 5, 7>();
  });
}

double tiles_int8(int64_t rounds) {
  return tile_products(rounds, 64, [] {
    asm volatile("tdpbssd %tmm6, %tmm4, %tmm0");
    asm volatile("tdpbssd %tmm7, %tmm4, %tmm1");
    asm volatile("tdpbssd %tmm6, %tmm5, %tmm2");
    asm volatile("tdpbssd %tmm7, %tmm5, %tmm3");
  });
}

bool has_tiles() { return cpu_features().amx; }

constexpr probe::Peak kPeaks[] = {{"bfloat16", has_tiles, tiles_bfloat16}, {"int8", has_tiles, tiles_int8}};

}  // namespace

extern const probe::Peaks probe_peaks{kPeaks, kPeaks + 2};

}  // namespace lynx::amx
#endif
