#include <pybind11/pybind11.h>

#include "adapter_mlp_backends.h"
#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "core/weight_contract.h"
#include "core/workspace.h"
#include "params.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                                \
  namespace isa {                                        \
  extern const adapter_mlp::Kernels adapter_mlp_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using adapter_mlp::BackwardParams;
using adapter_mlp::ForwardParams;
using adapter_mlp::Kernels;
using adapter_mlp::Weights;

/// The seven parameters of the op, or their seven gradients.
struct WeightTensors {
  const Tensor &norm_weight, &norm_bias, &down_weight, &down_bias, &up_weight, &up_bias, &scaling;

  Weights expect(const Contract& contract, Dim& D, Dim& R) const {
    Dim one{"1", 1};
    contract.expect("norm_weight", norm_weight, {&D});
    contract.expect("norm_bias", norm_bias, {&D});
    // A plain weight fixes R; the strips of a packed one hold up to 15 rows more.
    if (down_weight.ndim() != 2) contract.expect("down_bias", down_bias, {&R});
    const Weight down = expect_weight(contract, "down_weight", down_weight, R, D);
    contract.expect("down_bias", down_bias, {&R});
    const Weight up = expect_weight(contract, "up_weight", up_weight, D, R);
    contract.expect("up_bias", up_bias, {&D});
    contract.expect("scaling", scaling, {&one});
    return {norm_weight.address(), norm_bias.address(), down, down_bias.address(), up,
            up_bias.address(),     scaling.address()};
  }
};

double flops(double T, double D, double R, int products) { return 2.0 * T * D * R * products; }

/// `pre`: what the backward pass needs of the forward pass, or null.
void forward(const Kernels& kernels, const Tensor& x, const WeightTensors& weights, double eps, const Tensor& y,
             const Tensor* pre) {
  const Contract contract("adapter_mlp", x.dtype());
  Dim T{"T"}, D{"D"}, R{"R"};
  contract.expect("x", x, {&T, &D}, Layout::rows);
  ForwardParams p{};
  p.weights = weights.expect(contract, D, R);
  contract.expect_output("y", y, {&T, &D}, Layout::rows);
  if (pre != nullptr) contract.expect_output("pre", *pre, {&T, &R});
  p.dtype = x.dtype(), p.T = T, p.D = D, p.R = R, p.eps = static_cast<float>(eps), p.lanes = num_threads();
  p.x = x.address(), p.x_stride = x.stride(0), p.y = y.address(), p.y_stride = y.stride(0);
  p.pre = pre == nullptr ? nullptr : pre->address();
  const Workspace workspace(kernels.forward_workspace(p));
  p.workspace = workspace.data();
  const ReleaseGil release(flops(T, D, R, 2));
  kernels.forward(p);
}

void backward(const Kernels& kernels, const Tensor& dy, const Tensor& x, const Tensor& pre,
              const WeightTensors& weights, double eps, const Tensor& dx, const WeightTensors& gradients) {
  const Contract contract("adapter_mlp_backward", x.dtype());
  Dim T{"T"}, D{"D"}, R{"R"};
  contract.expect("x", x, {&T, &D}, Layout::rows);
  contract.expect("dy", dy, {&T, &D}, Layout::rows);
  BackwardParams p{};
  p.weights = weights.expect(contract, D, R);
  if (p.weights.down.packed || p.weights.up.packed) fail("adapter_mlp_backward: packed weights have no gradient");
  contract.expect("pre", pre, {&T, &R});
  contract.expect_output("dx", dx, {&T, &D});
  gradients.expect(contract, D, R);
  const auto& g = gradients;
  p.dtype = x.dtype(), p.T = T, p.D = D, p.R = R, p.eps = static_cast<float>(eps), p.lanes = num_threads();
  p.dy = dy.address(), p.dy_stride = dy.stride(0), p.x = x.address(), p.x_stride = x.stride(0), p.pre = pre.address();
  p.dx = dx.address(), p.d_scaling = g.scaling.address();
  p.d_norm_weight = g.norm_weight.address(), p.d_norm_bias = g.norm_bias.address();
  p.d_down_weight = g.down_weight.address(), p.d_down_bias = g.down_bias.address();
  p.d_up_weight = g.up_weight.address(), p.d_up_bias = g.up_bias.address();
  const Workspace workspace(kernels.backward_workspace(p));
  p.workspace = workspace.data();
  const ReleaseGil release(flops(T, D, R, 4));
  kernels.backward(p);
}

using In = const Tensor&;

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "adapter_mlp", isa, kernels.dtypes,
              [&kernels](In x, In norm_weight, In norm_bias, In down_weight, In down_bias, In up_weight, In up_bias,
                         In scaling, double eps, In y) {
                forward(kernels, x, {norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling}, eps,
                        y, nullptr);
              });
  add_backend(m, "adapter_mlp_keeping", isa, kernels.dtypes,
              [&kernels](In x, In norm_weight, In norm_bias, In down_weight, In down_bias, In up_weight, In up_bias,
                         In scaling, double eps, In y, In pre) {
                forward(kernels, x, {norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling}, eps,
                        y, &pre);
              });
  add_backend(m, "adapter_mlp_backward", isa, kernels.dtypes,
              [&kernels](In dy, In pre, In x, In norm_weight, In norm_bias, In down_weight, In down_bias, In up_weight,
                         In up_bias, In scaling, double eps, In dx, In d_norm_weight, In d_norm_bias, In d_down_weight,
                         In d_down_bias, In d_up_weight, In d_up_bias, In d_scaling) {
                backward(kernels, dy, x, pre,
                         {norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling}, eps, dx,
                         {d_norm_weight, d_norm_bias, d_down_weight, d_down_bias, d_up_weight, d_up_bias, d_scaling});
              });
}

}  // namespace

void bind_adapter_mlp(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::adapter_mlp_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
