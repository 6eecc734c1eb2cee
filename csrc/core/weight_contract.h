// The contract of weight.h, for bindings.
#pragma once
#include "contract.h"
#include "weight.h"

namespace lynx {

/// `weight` must be [N, K], or its strips; `matrices` is 2 where gate and up lie strip by strip in one.
inline Weight expect_weight(const Contract& contract, const char* argument, const Tensor& weight, Dim& N, Dim& K,
                            int64_t matrices = 1) {
  if (weight.ndim() == 2 && matrices == 1) {
    contract.expect(argument, weight, {&N, &K});
    return {weight.address(), false};
  }
  constexpr int64_t kStrip = 16;
  Dim strips{"strips", (N + kStrip - 1) / kStrip * matrices}, columns{"16", kStrip};
  if (weight.dtype() == DType::bf16) {
    Dim pairs{"pairs", (K + 31) / 32 * 16}, two{"2", 2};
    contract.expect(argument, weight, {&strips, &pairs, &columns, &two});
  } else {
    contract.expect(argument, weight, {&strips, &K, &columns});
  }
  return {weight.address(), true};
}

}  // namespace lynx
