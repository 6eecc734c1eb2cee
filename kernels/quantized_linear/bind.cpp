#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "core/workspace.h"
#include "params.h"
#include "quantized_linear_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                                                                      \
  namespace isa {                                                                              \
  extern const quantized_linear::Kernels quantized_linear_kernels, weight_only_linear_kernels; \
  extern const quantized_linear::Quantizers weight_quantizers;                                 \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace quantized_linear;
using In = const Tensor&;
using Maybe = const std::optional<Tensor>&;

int64_t row_stride(In tensor) { return tensor.ndim() == 2 ? tensor.stride(0) : tensor.size(-1); }

/// What quantize_linear gives, of strips of [N, K]; twice as many where gate and up lie strip by strip in one weight.
Weight checked_weight(const Contract& contract, const char* op, In codes, In scales, int64_t N, int64_t K,
                      int64_t matrices = 1) {
  Dim strips{"strips", (N + 15) / 16 * matrices}, steps{"steps"}, groups{"groups"}, lanes{"16", 16}, four{"4", 4},
      line{"64", 64};
  Weight weight{};
  weight.nibbles = codes.ndim() == 3;
  if (weight.nibbles) {
    contract.expect_dtype("codes", codes, DType::u8, {&strips, &steps, &line});
  } else {
    contract.expect_dtype("codes", codes, DType::u8, {&strips, &steps, &lanes, &four});
  }
  contract.expect_dtype("scales", scales, DType::bf16, {&strips, &groups, &lanes});
  weight.depth = steps * (weight.nibbles ? 8 : 4);
  weight.group = groups > 0 ? weight.depth / groups : 0;
  const bool one_group = groups == 1 && (weight.depth == 32 || weight.depth % kMaxBlock == 0) && weight.depth > 0;
  const bool known = weight.group == 32 || weight.group == kMaxBlock || one_group;
  if (!known || weight.group * groups != weight.depth) {
    fail(op, ": groups of 32, 128 or all of K, got ", static_cast<int64_t>(groups), " groups of ", weight.depth);
  }
  if (weight.depth < K || weight.depth - K >= (one_group ? kMaxBlock : weight.group) + (K == 0)) {
    fail(op, ": codes must be of K=", K, " values, got ", weight.depth);
  }
  weight.codes = static_cast<const uint8_t*>(codes.address()), weight.scales = scales.address();
  return weight;
}

void forward(const char* op, const Kernels& kernels, In x, In codes, In scales, Maybe bias, Maybe residual,
             const std::string& activation, double scale, In y) {
  const Contract contract(op, x.dtype());
  Dim M{"M"}, N{"N"}, K{"K"};
  contract.expect_rows("x", x, M, K);
  contract.expect_output_rows("y", y, M, N);
  ForwardParams p{};
  LinearCall& call = p;
  call.activation = activation_of(op, activation);
  const bool gated = call.activation == Activation::gated_silu;
  if (gated && bias) fail(op, ": gated_silu takes no bias");
  call.dtype = x.dtype(), call.M = M, call.N = N, call.K = K;
  call.x = x.address(), call.x_stride = row_stride(x), call.y = y.address(), call.y_stride = N;
  p.weight = checked_weight(contract, op, codes, scales, N, K, gated ? 2 : 1);
  if (bias) {
    contract.expect("bias", *bias, {&N});
    call.bias = bias->address();
  }
  if (residual) {
    contract.expect_rows("residual", *residual, M, N);
    call.residual = residual->address(), call.residual_stride = row_stride(*residual);
  }
  call.scale = static_cast<float>(scale), call.lanes = num_threads();
  const Workspace workspace(kernels.workspace(p));
  call.workspace = workspace.data();
  const ReleaseGil release(2.0 * M * N * K * (gated ? 2 : 1));
  kernels.forward(p);
}

void quantize(const Quantizers& quantizers, In weight, In codes, In scales) {
  const char* op = "quantize_weight";
  const Contract contract(op, weight.dtype());
  Dim N{"N"}, K{"K"};
  contract.expect("weight", weight, {&N, &K}, Layout::rows);
  const Weight made = checked_weight(contract, op, codes, scales, N, K);
  if (codes.read_only() || scales.read_only()) fail(op, ": codes and scales must be writable");
  const QuantizeParams p{weight.dtype(),
                         weight.address(),
                         weight.stride(0),
                         N,
                         K,
                         made.nibbles,
                         made.depth,
                         made.group,
                         static_cast<uint8_t*>(codes.address()),
                         scales.address()};
  const ReleaseGil release(20.0 * N * K);
  quantizers.quantize(p);
}

void add_kernels(py::module_& m, const char* op, const char* isa, const Kernels& kernels) {
  add_backend(
      m, op, isa, kernels.dtypes,
      [op, &kernels](In x, In codes, In scales, Maybe bias, Maybe residual, const std::string& activation, double scale,
                     In y) { forward(op, kernels, x, codes, scales, bias, residual, activation, scale, y); });
}

}  // namespace

void bind_quantized_linear(py::module_& m) {
#define LYNX_ADD(isa)                                                          \
  add_kernels(m, "quantized_linear", #isa, isa::quantized_linear_kernels);     \
  add_kernels(m, "weight_only_linear", #isa, isa::weight_only_linear_kernels); \
  add_backend(m, "quantize_weight", #isa, isa::weight_quantizers.dtypes,       \
              [](In weight, In codes, In scales) { quantize(isa::weight_quantizers, weight, codes, scales); });
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
