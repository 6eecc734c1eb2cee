// The backend of a vector instruction set: float32 and bfloat16 tensors, float32 arithmetic.
#pragma once
#include "backward.h"
#include "forward.h"

namespace lynx::LYNX_ISA {
namespace {

void run_forward(const ForwardParams& p) {
  if (p.dtype == DType::f32) return p.centred ? forward_as<float, true>(p) : forward_as<float, false>(p);
  p.centred ? forward_as<bf16, true>(p) : forward_as<bf16, false>(p);
}

void run_backward(const BackwardParams& p) {
  if (p.dtype == DType::f32) return p.centred ? backward_as<float, true>(p) : backward_as<float, false>(p);
  p.centred ? backward_as<bf16, true>(p) : backward_as<bf16, false>(p);
}

}  // namespace

extern const norm::Kernels norm_kernels;
const norm::Kernels norm_kernels{dtype_set(DType::f32, DType::bf16), run_forward, backward_workspace, run_backward};

}  // namespace lynx::LYNX_ISA
