// The innermost step of gemm.h: a block of rows times a panel of one or two strips, its sums in registers.
//
//   Operand, kStepK             what is multiplied, and how many values of k at a time
//   kBlockRows, kPanelStrips    the block that fills the registers
//   dot_block(...)              sums (+)= rows times strips over one K block
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"

namespace lynx::LYNX_ISA {

/// What to fetch into L2 meanwhile: of each strip of the panel, `step` bytes for every kStepK values of k.
struct Ahead {
  const char* strips[2];
  int64_t step;
};

}  // namespace lynx::LYNX_ISA

#if defined(LYNX_HAS_TILES)
#include "gemm_kernel_tile.h"
#else
#include "gemm_kernel_vec.h"
#endif
