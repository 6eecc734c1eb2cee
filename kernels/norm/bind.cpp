#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/workspace.h"
#include "norm_backends.h"
#include "params.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                  \
  namespace isa {                          \
  extern const norm::Kernels norm_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using norm::BackwardParams;
using norm::ForwardParams;
using norm::Kernels;
using norm::Rows;
using In = const Tensor&;
using MaybeIn = const std::optional<Tensor>&;

// An element costs about as much as 4 FLOPs of a matrix product.
double flops(double T, double D, int passes) { return 4.0 * T * D * passes; }

Rows rows(In tensor) { return {tensor.address(), tensor.ndim() == 2 ? tensor.stride(0) : tensor.size(-1)}; }

/// bias is given for LayerNorm, residual and sum where a residual is added first.
void forward(const Kernels& kernels, const char* op, In x, MaybeIn residual, In weight, MaybeIn bias, double eps, In y,
             MaybeIn sum) {
  const Contract contract(op, x.dtype());
  Dim T{"T"}, D{"D"};
  contract.expect_rows("x", x, T, D);
  contract.expect("weight", weight, {&D});
  contract.expect_output_rows("y", y, T, D);
  ForwardParams p{x.dtype(), bias.has_value(),        T,           D,      rows(x), {nullptr, 0}, weight.address(),
                  nullptr,   static_cast<float>(eps), y.address(), nullptr};
  if (bias) {
    contract.expect("bias", *bias, {&D});
    p.bias = bias->address();
  }
  if (residual) {
    contract.expect_rows("residual", *residual, T, D);
    contract.expect_output_rows("sum", *sum, T, D);
    p.residual = rows(*residual), p.sum = sum->address();
  }
  const ReleaseGil release(flops(T, D, 1));
  kernels.forward(p);
}

void backward(const Kernels& kernels, const char* op, bool centred, In dy, MaybeIn d_sum, In x, In weight, double eps,
              In dx, MaybeIn d_weight, MaybeIn d_bias) {
  const Contract contract(op, x.dtype());
  Dim T{"T"}, D{"D"};
  contract.expect_rows("x", x, T, D);
  contract.expect_rows("dy", dy, T, D);
  contract.expect("weight", weight, {&D});
  contract.expect_output_rows("dx", dx, T, D);
  BackwardParams p{x.dtype(),
                   centred,
                   T,
                   D,
                   rows(dy),
                   {nullptr, 0},
                   rows(x),
                   weight.address(),
                   static_cast<float>(eps),
                   dx.address(),
                   nullptr,
                   nullptr,
                   nullptr};
  if (d_sum) {
    contract.expect_rows("d_sum", *d_sum, T, D);
    p.d_sum = rows(*d_sum);
  }
  if (d_weight) {
    contract.expect_output("d_weight", *d_weight, {&D});
    p.d_weight = d_weight->address();
  }
  if (centred && d_weight) {
    contract.expect_output("d_bias", *d_bias, {&D});
    p.d_bias = d_bias->address();
  }
  const Workspace workspace(kernels.backward_workspace(p));
  p.workspace = workspace.data();
  const ReleaseGil release(flops(T, D, 2));
  kernels.backward(p);
}

/// The plain norm and the one after a residual are two ops to torch and one kernel here.
void add_kernels(py::module_& m, const char* isa, const char* op, const char* op_backward, bool centred,
                 const Kernels& kernels) {
  add_backend(m, op, isa, kernels.dtypes,
              [&kernels, op](In x, MaybeIn residual, In weight, MaybeIn bias, double eps, In y, MaybeIn sum) {
                forward(kernels, op, x, residual, weight, bias, eps, y, sum);
              });
  add_backend(m, op_backward, isa, kernels.dtypes,
              [&kernels, op_backward, centred](In dy, MaybeIn d_sum, In x, In weight, double eps, In dx,
                                               MaybeIn d_weight, MaybeIn d_bias) {
                backward(kernels, op_backward, centred, dy, d_sum, x, weight, eps, dx, d_weight, d_bias);
              });
}

}  // namespace

void bind_norm(py::module_& m) {
#define LYNX_ADD(isa)                                                                      \
  add_kernels(m, #isa, "rms_norm", "rms_norm_backward", false, isa::norm_kernels);         \
  add_kernels(m, #isa, "layer_norm", "layer_norm_backward", true, isa::norm_kernels);      \
  add_kernels(m, #isa, "add_rms_norm", "add_rms_norm_backward", false, isa::norm_kernels); \
  add_kernels(m, #isa, "add_layer_norm", "add_layer_norm_backward", true, isa::norm_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
