// Both ways to multiply by a weight of codes, and the way to make one, on every instruction set.
#pragma once
#include "dequantized.h"
#include "integer.h"
#include "quantize.h"

namespace lynx::LYNX_ISA {
namespace {

void integer_forward(const quantized_linear::ForwardParams& p) {
  p.dtype == DType::f32 ? integer_forward_as<float>(p) : integer_forward_as<bf16>(p);
}

#if defined(__AVX512BF16__)

constexpr uint32_t kFloatTypes = dtype_set(DType::bf16);
void float_forward(const quantized_linear::ForwardParams& p) { float_forward_as<bf16>(p); }

#else

constexpr uint32_t kFloatTypes = dtype_set(DType::f32, DType::bf16);
void float_forward(const quantized_linear::ForwardParams& p) {
  p.dtype == DType::f32 ? float_forward_as<float>(p) : float_forward_as<bf16>(p);
}

#endif

}  // namespace

extern const quantized_linear::Kernels quantized_linear_kernels, weight_only_linear_kernels;
extern const quantized_linear::Quantizers weight_quantizers;
const quantized_linear::Kernels quantized_linear_kernels{dtype_set(DType::f32, DType::bf16), integer_workspace,
                                                         integer_forward};
const quantized_linear::Kernels weight_only_linear_kernels{kFloatTypes, float_workspace, float_forward};
const quantized_linear::Quantizers weight_quantizers{dtype_set(DType::f32, DType::bf16), quantize};

}  // namespace lynx::LYNX_ISA
