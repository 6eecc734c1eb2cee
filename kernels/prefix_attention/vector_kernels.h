// The kernels of the vector instruction sets: float32 and bfloat16 tensors, float32 arithmetic.
#pragma once
#include "backward.h"
#include "float_math.h"
#include "forward.h"
#include "panel_gemm.h"
#include "vector_gemm.h"

namespace lynx::LYNX_ISA::prefix_attention {

using FloatGemm = PanelGemm<FloatMath>;

inline void vector_forward(const ForwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? forward<FloatGemm, float>(params, task) : forward<FloatGemm, bf16>(params, task);
}
inline void vector_backward_q(const BackwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? backward_q<VectorGemm, float>(params, task)
                                     : backward_q<VectorGemm, bf16>(params, task);
}
inline void vector_backward_kv(const BackwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? backward_kv<VectorGemm, float>(params, task)
                                     : backward_kv<VectorGemm, bf16>(params, task);
}

constexpr Kernels kVectorKernels{dtype_set(DType::f32, DType::bf16),
                                 vector_forward,
                                 vector_backward_q,
                                 vector_backward_kv,
                                 kQueryBlock,
                                 VectorGemm::kRowBlock,
                                 VectorGemm::kRowBlock};

}  // namespace lynx::LYNX_ISA::prefix_attention
