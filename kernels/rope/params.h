// What bind.cpp hands a kernel. q [B, S, Hq, D], k and v [B, S, Hk, D] with strides in elements and contiguous heads;
// cos and sin [B or 1, S, D], dense but for the batch.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace lynx::rope {

struct Heads {
  void* data;
  int64_t batch, token, head;  // strides
};

/// Where the keys and values of token s of row b go in a cache: slot `slots[b * S + s]` of a paged one (-1: nowhere), or
/// position `starts[b] + s` of row b. Both null: k's output is an array like q's.
struct Places {
  const int64_t *slots, *starts;
};

struct Params {
  DType dtype;
  bool inverse;  // by the opposite angle: the backward pass
  int64_t B, S, q_heads, k_heads, D;
  Heads q, k, v;  // v.data is null: there is none
  const void *cos, *sin;
  int64_t table_batch;
  Heads q_out, k_out, v_out;
  Places places;
};

struct Kernels {
  uint32_t dtypes;
  void (*rotate)(const Params&);
};

}  // namespace lynx::rope
