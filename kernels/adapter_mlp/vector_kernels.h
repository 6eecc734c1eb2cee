// The backend of a vector instruction set: float32 and bfloat16 tensors, float32 arithmetic.
#pragma once
#include "backward.h"
#include "forward.h"

namespace lynx::LYNX_ISA {
namespace {

void run_forward(const ForwardParams& p) {
  p.dtype == DType::f32 ? forward_as<float, float>(p) : forward_as<bf16, float>(p);
}

void run_backward(const BackwardParams& p) {
  p.dtype == DType::f32 ? backward_as<float, float>(p) : backward_as<bf16, float>(p);
}

}  // namespace

extern const adapter_mlp::Kernels adapter_mlp_kernels;
const adapter_mlp::Kernels adapter_mlp_kernels{
    dtype_set(DType::f32, DType::bf16), forward_workspace<float>, run_forward, backward_workspace<float>, run_backward,
};

}  // namespace lynx::LYNX_ISA
