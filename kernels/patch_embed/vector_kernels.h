// The backend of a vector instruction set: float32 and bfloat16 parameters, float32 arithmetic.
#pragma once
#include "forward.h"

namespace lynx::LYNX_ISA {
namespace {

void run(const Params& p) { p.dtype == DType::f32 ? run_as<float, float>(p) : run_as<bf16, float>(p); }

}  // namespace

extern const patch_embed::Kernels patch_embed_kernels;
const patch_embed::Kernels patch_embed_kernels{dtype_set(DType::f32, DType::bf16), workspace_bytes<float>, run};

}  // namespace lynx::LYNX_ISA
