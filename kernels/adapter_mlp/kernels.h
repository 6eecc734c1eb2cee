// The backend of an instruction set: what its operands allow of forward.h and backward.h.
#pragma once
#include "backward.h"
#include "forward.h"

namespace lynx::LYNX_ISA {
namespace {

#if defined(LYNX_HAS_TILES) || defined(__AVX512BF16__)

// The left sides of products (LN(x), silu(..), and in the backward pass dy and d_pre) are rounded to bfloat16, as torch
// rounds them.
constexpr uint32_t kTypes = dtype_set(DType::bf16);
void forward(const adapter_mlp::ForwardParams& p) { forward_as<bf16>(p); }
void backward(const adapter_mlp::BackwardParams& p) { backward_as<bf16>(p); }

#else

constexpr uint32_t kTypes = dtype_set(DType::f32, DType::bf16);
void forward(const adapter_mlp::ForwardParams& p) {
  p.dtype == DType::f32 ? forward_as<float>(p) : forward_as<bf16>(p);
}
void backward(const adapter_mlp::BackwardParams& p) {
  p.dtype == DType::f32 ? backward_as<float>(p) : backward_as<bf16>(p);
}

#endif

}  // namespace

extern const adapter_mlp::Kernels adapter_mlp_kernels;
const adapter_mlp::Kernels adapter_mlp_kernels{kTypes, forward_workspace, forward, backward_workspace, backward};

}  // namespace lynx::LYNX_ISA
