// What bind.cpp hands a kernel: plain pointers with the sizes beside them. Shapes as in op.py: x [T, D], down [R, D],
// up [D, R]. Every array is contiguous, but for the rows of x, y and dy, whose distance is given in elements.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "core/weight.h"

namespace lynx::adapter_mlp {

struct Weights {
  const void *norm_weight, *norm_bias;
  Weight down;
  const void* down_bias;
  Weight up;
  const void *up_bias, *scaling;
};

struct ForwardParams {
  DType dtype;
  int64_t T, D, R;
  const void* x;
  int64_t x_stride;
  Weights weights;
  float eps;
  void* y;
  int64_t y_stride;
  void* pre;  // [T, R] before silu, for the backward pass; null: not wanted
  int64_t lanes;
  std::byte* workspace;
};

struct BackwardParams {
  DType dtype;
  int64_t T, D, R;
  const void* dy;
  int64_t dy_stride;
  const void* x;
  int64_t x_stride;
  const void* pre;  // [T, R]
  Weights weights;
  float eps;
  void *dx, *d_norm_weight, *d_norm_bias, *d_down_weight, *d_down_bias, *d_up_weight, *d_up_bias, *d_scaling;
  int64_t lanes;
  std::byte* workspace;
};

/// `lanes`: parallel tasks that the workspace has room for. Backward takes plain weights.
/// One backend's entry points; `*_workspace` gives the bytes that the call needs at `params.workspace`.
struct Kernels {
  uint32_t dtypes;
  int64_t (*forward_workspace)(const ForwardParams&);
  void (*forward)(const ForwardParams&);
  int64_t (*backward_workspace)(const BackwardParams&);
  void (*backward)(const BackwardParams&);
};

}  // namespace lynx::adapter_mlp
