// The primitives of tile.h as instructions.
//
// Not by gcc's intrinsics: _tile_loadconfig of gcc 12 tells the compiler that 8 bytes are read, and _tile_loadd that
// none are, so the stores that fill the configuration or a packed tile may be dropped or moved behind the instruction.
// Every access to memory here says "memory".
#pragma once
#include <cstdint>

#include "isa.h"

namespace lynx::LYNX_ISA {

LYNX_INLINE void tile_config(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
LYNX_INLINE void tile_release() { asm volatile("tilerelease" ::: "memory"); }

template <int T>
LYNX_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(T));
}

template <int T>
LYNX_INLINE void tile_load(const void* rows, int64_t stride) {
  asm volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(T), "r"(rows), "r"(stride) : "memory");
}

template <int T>
LYNX_INLINE void tile_store(void* rows, int64_t stride) {
  asm volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(T), "r"(rows), "r"(stride) : "memory");
}

template <int C, int A, int B>
LYNX_INLINE void tile_dp_bf16() {
  static_assert(C != A && C != B && A != B, "tdpbf16ps needs three different tiles");
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

}  // namespace lynx::LYNX_ISA
