#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "core/weight_contract.h"
#include "core/workspace.h"
#include "linear_backends.h"
#include "params.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                      \
  namespace isa {                              \
  extern const linear::Kernels linear_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace linear;
using In = const Tensor&;
using Maybe = const std::optional<Tensor>&;

const void* checked_vector(const Contract& contract, const char* name, Maybe tensor, Dim& size) {
  if (!tensor) return nullptr;
  contract.expect(name, *tensor, {&size});
  return tensor->address();
}

void forward(const Kernels& kernels, In x, In weight, Maybe bias, Maybe residual, Maybe norm_weight, Maybe norm_bias,
             const std::string& activation, double scale, double eps, In y) {
  const Contract contract("linear", x.dtype());
  Dim M{"M"}, N{"N"}, K{"K"};
  contract.expect("x", x, {&M, &K}, Layout::rows);
  contract.expect_output("y", y, {&M, &N}, Layout::rows);
  ForwardParams p{};
  p.activation = activation_of("linear", activation);
  const bool gated = p.activation == Activation::gated_silu;
  if (gated && bias) fail("linear: gated_silu takes no bias");
  if (norm_bias && !norm_weight) fail("linear: norm_bias needs norm_weight");
  p.dtype = x.dtype(), p.M = M, p.N = N, p.K = K;
  p.x = x.address(), p.x_stride = x.stride(0), p.y = y.address(), p.y_stride = y.stride(0);
  p.weight = expect_weight(contract, "weight", weight, N, K, gated ? 2 : 1);
  p.bias = checked_vector(contract, "bias", bias, N);
  p.norm_weight = checked_vector(contract, "norm_weight", norm_weight, K);
  p.norm_bias = checked_vector(contract, "norm_bias", norm_bias, K);
  if (residual) {
    contract.expect("residual", *residual, {&M, &N}, Layout::rows);
    p.residual = residual->address(), p.residual_stride = residual->stride(0);
  }
  p.scale = static_cast<float>(scale), p.eps = static_cast<float>(eps);
  p.lanes = num_threads();
  const Workspace workspace(kernels.workspace(M, K, p.lanes));
  p.workspace = workspace.data();
  const ReleaseGil release(2.0 * M * N * K * (gated ? 2 : 1));
  kernels.forward(p);
}

void input_gradient(const Kernels& kernels, In dy, In weight, In dx) {
  const Contract contract("linear_backward_input", dy.dtype());
  Dim M{"M"}, N{"N"}, K{"K"};
  contract.expect("dy", dy, {&M, &N}, Layout::rows);
  contract.expect_output("dx", dx, {&M, &K});
  InputGradientParams p{};
  p.dtype = dy.dtype(), p.M = M, p.N = N, p.K = K;
  p.dy = dy.address(), p.dy_stride = dy.stride(0), p.dx = dx.address();
  p.weight = expect_weight(contract, "weight", weight, N, K);
  p.lanes = num_threads();
  const Workspace workspace(kernels.workspace(M, N, p.lanes));
  p.workspace = workspace.data();
  const ReleaseGil release(2.0 * M * N * K);
  kernels.input_gradient(p);
}

void weight_gradient(const Kernels& kernels, In dy, In x, In dw) {
  const Contract contract("linear_backward_weight", dy.dtype());
  Dim M{"M"}, N{"N"}, K{"K"};
  contract.expect("dy", dy, {&M, &N}, Layout::rows);
  contract.expect("x", x, {&M, &K}, Layout::rows);
  contract.expect_output("dw", dw, {&N, &K});
  WeightGradientParams p{};
  p.dtype = dy.dtype(), p.M = M, p.N = N, p.K = K;
  p.dy = dy.address(), p.dy_stride = dy.stride(0), p.x = x.address(), p.x_stride = x.stride(0), p.dw = dw.address();
  p.lanes = num_threads();
  const Workspace workspace(kernels.workspace(N, M, p.lanes));
  p.workspace = workspace.data();
  const ReleaseGil release(2.0 * M * N * K);
  kernels.weight_gradient(p);
}

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "linear", isa, kernels.dtypes,
              [&kernels](In x, In weight, Maybe bias, Maybe residual, Maybe norm_weight, Maybe norm_bias,
                         const std::string& activation, double scale, double eps, In y) {
                forward(kernels, x, weight, bias, residual, norm_weight, norm_bias, activation, scale, eps, y);
              });
  add_backend(m, "linear_backward_input", isa, kernels.dtypes,
              [&kernels](In dy, In weight, In dx) { input_gradient(kernels, dy, weight, dx); });
  add_backend(m, "linear_backward_weight", isa, kernels.dtypes,
              [&kernels](In dy, In x, In dw) { weight_gradient(kernels, dy, x, dw); });
}

}  // namespace

void bind_linear(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::linear_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
