// What bind.cpp hands a kernel: plain pointers with the sizes beside them. Every row is contiguous; rows of the inputs lie
// `*_stride` elements apart, outputs are dense.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lynx::norm {

struct Rows {
  const void* data;
  int64_t stride;
};

/// y = norm(x), or with a residual sum = x + residual and y = norm(sum). `centred`: LayerNorm, else RMSNorm.
struct ForwardParams {
  DType dtype;
  bool centred;
  int64_t T, D;
  Rows x;
  Rows residual;  // data is null: none
  const void *weight, *bias;
  float eps;
  void *y, *sum;
};

/// dx = d norm(x) (+ d_sum). `d_weight` and `d_bias` are null where nobody asks for them.
struct BackwardParams {
  DType dtype;
  bool centred;
  int64_t T, D;
  Rows dy;
  Rows d_sum;  // data is null: none
  Rows x;
  const void* weight;
  float eps;
  void *dx, *d_weight, *d_bias;
  std::byte* workspace;
};

/// One backend's entry points.
struct Kernels {
  uint32_t dtypes;
  void (*forward)(const ForwardParams&);
  int64_t (*backward_workspace)(const BackwardParams&);
  void (*backward)(const BackwardParams&);
};

}  // namespace lynx::norm
