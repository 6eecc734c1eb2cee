// What bind.cpp hands a kernel: [T, N] rows, contiguous within, whose distance is given in elements; outputs are dense.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace lynx::swiglu {

struct Rows {
  const void* data;
  int64_t stride;
};

struct ForwardParams {
  DType dtype;
  int64_t T, N;
  Rows gate, up;
  void* y;
};

struct BackwardParams {
  DType dtype;
  int64_t T, N;
  Rows dy, gate, up;
  void *d_gate, *d_up;
};

struct Kernels {
  uint32_t dtypes;
  void (*forward)(const ForwardParams&);
  void (*backward)(const BackwardParams&);
};

}  // namespace lynx::swiglu
