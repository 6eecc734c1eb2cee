// The kernels of the vector instruction sets: float32 and bfloat16 tensors, float32 arithmetic.
#pragma once
#include "backward.h"
#include "float_math.h"
#include "forward.h"
#include "paged.h"
#include "panel_gemm.h"

namespace lynx::LYNX_ISA::prefix_attention {

using FloatGemm = PanelGemm<FloatMath>;

inline void vector_forward(const ForwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? forward<FloatGemm, float>(params, task) : forward<FloatGemm, bf16>(params, task);
}
inline void vector_decode_span(const ForwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? decode_span<FloatMath, float>(params, task)
                                     : decode_span<FloatMath, bf16>(params, task);
}
inline void vector_decode_merge(const ForwardParams& params, int64_t task) {
  params.problem.dtype == DType::f32 ? decode_merge<float>(params, task) : decode_merge<bf16>(params, task);
}
inline void vector_paged_span(const PagedParams& params, int64_t task) {
  params.dtype == DType::f32 ? paged_span_of<FloatMath, float>(params, task)
                             : paged_span_of<FloatMath, bf16>(params, task);
}
inline void vector_paged_merge(const PagedParams& params, int64_t task) {
  params.dtype == DType::f32 ? paged_merge<float>(params, task) : paged_merge<bf16>(params, task);
}
inline void vector_backward(const BackwardParams& params, int64_t task, float* workspace) {
  params.problem.dtype == DType::f32 ? backward<FloatGemm, float>(params, task, workspace)
                                     : backward<FloatGemm, bf16>(params, task, workspace);
}

constexpr Kernels kVectorKernels{dtype_set(DType::f32, DType::bf16),
                                 vector_forward,
                                 vector_decode_span,
                                 vector_decode_merge,
                                 vector_paged_span,
                                 vector_paged_merge,
                                 vector_backward,
                                 kQueryBlock};

}  // namespace lynx::LYNX_ISA::prefix_attention
