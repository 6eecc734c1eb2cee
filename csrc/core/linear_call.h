// What every linear's kernel is told, whatever its weight is made of: y = residual + scale * activation(x weight^T + bias).
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "dtype.h"
#include "error.h"

namespace lynx {

enum class Activation : uint8_t { none, silu, gelu, gated_silu };

/// x [M, K], y and residual [M, N], bias [N]; null: no bias, no residual. Of gated_silu N counts the outputs, and the
/// weight's strips are gate, up, gate, up ...
struct LinearCall {
  DType dtype;
  int64_t M, N, K;
  const void* x;
  int64_t x_stride;
  const void* bias;
  const void* residual;
  int64_t residual_stride;
  Activation activation;
  float scale;
  void* y;
  int64_t y_stride;
  int64_t lanes;
  std::byte* workspace;
};

/// By the names that op.py gives them.
inline Activation activation_of(const char* op, const std::string& name) {
  if (name == "none") return Activation::none;
  if (name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gated_silu") return Activation::gated_silu;
  fail(op, ": activation must be none, silu, gelu or gated_silu, got ", name);
}

}  // namespace lynx
