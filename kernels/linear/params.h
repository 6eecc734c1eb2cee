// What bind.cpp hands a kernel: plain pointers with the sizes beside them. Shapes as in op.py: x [M, K], weight [N, K].
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/linear_call.h"
#include "core/weight.h"

namespace lynx::linear {

/// y = residual + scale * activation(norm(x) weight^T + bias); RMSNorm where norm_bias alone is null, no norm where both.
struct ForwardParams : LinearCall {
  Weight weight;
  const void *norm_weight, *norm_bias;
  float eps;
};

/// dx [M, K] = dy [M, N] weight
struct InputGradientParams {
  DType dtype;
  int64_t M, N, K;
  const void* dy;
  int64_t dy_stride;
  Weight weight;
  void* dx;
  int64_t lanes;
  std::byte* workspace;
};

/// dw [N, K] = dy^T x of dy [M, N] and x [M, K]
struct WeightGradientParams {
  DType dtype;
  int64_t M, N, K;
  const void* dy;
  int64_t dy_stride;
  const void* x;
  int64_t x_stride;
  void* dw;
  int64_t lanes;
  std::byte* workspace;
};

/// One backend's entry points; the workspace of a product with `rows` rows over a depth is `workspace(rows, depth, lanes)`.
struct Kernels {
  uint32_t dtypes;
  int64_t (*workspace)(int64_t rows, int64_t depth, int64_t lanes);
  void (*forward)(const ForwardParams&);
  void (*input_gradient)(const InputGradientParams&);
  void (*weight_gradient)(const WeightGradientParams&);
};

}  // namespace lynx::linear
