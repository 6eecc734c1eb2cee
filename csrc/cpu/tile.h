// The AMX tile registers under named primitives: eight tiles of up to 16 rows x 64 bytes.
//
//   TileScope scope;                       all eight tiles become 16 x 64 bytes; released when the scope ends
//   tile_config(config); tile_release();   the same by hand, for other shapes
//   tile_zero<C>();                        C = 0
//   tile_load<A>(pointer, stride);         rows from memory, `stride` bytes apart
//   tile_dp_bf16<C, A, B>();               C[m][n] += sum over k of A[m][k] * B[k][n]
//   tile_store<C>(pointer, stride);        rows to memory
//
// tile_dp_bf16 takes A as rows of 32 bfloat16 and B as 16 rows of 16 pairs: row k / 2 holds (B[k][n], B[k + 1][n]) side
// by side for n = 0..15. A tile belongs to a thread: configure inside the parallel body.
//
// The source of an op's cpu_amx.cpp is compiled twice: for the hardware (namespace lynx::amx), and with
// -DLYNX_EMULATE_TILES for any AVX-512 machine (namespace lynx::amx_emulated), with the same results to the last bit.
#pragma once
#include <cstdint>

#include "isa.h"

namespace lynx::LYNX_ISA {

constexpr int kTileCount = 8;
constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;
constexpr int kTileDepth = kTileBytes / 2;  // bfloat16 numbers in a row
constexpr int kTileElements = kTileRows * kTileDepth;

/// The 64 bytes that ldtilecfg reads (Intel SDM volume 1, 18.3): shape of each tile in rows and bytes a row.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64, "ldtilecfg reads 64 bytes");

}  // namespace lynx::LYNX_ISA

#if defined(LYNX_EMULATE_TILES)
#include "tile_emulated.h"
#else
#include "tile_hardware.h"
#endif

namespace lynx::LYNX_ISA {

/// Owns the tile registers of this thread, all at their full shape, until the end of the scope.
class TileScope {
 public:
  LYNX_INLINE TileScope() {
    TileConfig config;
    for (int t = 0; t < kTileCount; ++t) {
      config.rows[t] = kTileRows;
      config.row_bytes[t] = kTileBytes;
    }
    tile_config(config);
  }
  LYNX_INLINE ~TileScope() { tile_release(); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace lynx::LYNX_ISA
