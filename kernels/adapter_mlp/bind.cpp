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

void forward(const Kernels& kernels, const Tensor& x, const WeightTensors& weights, double eps, const Tensor& y) {
  const Contract contract("adapter_mlp", x.dtype());
  Dim T{"T"}, D{"D"}, R{"R"};
  contract.expect("x", x, {&T, &D}, Layout::rows);
  const Weights checked = weights.expect(contract, D, R);
  contract.expect_output("y", y, {&T, &D}, Layout::rows);
  ForwardParams params{
      x.dtype(),     T,      D, R, x.address(), x.stride(0), checked, static_cast<float>(eps), y.address(), y.stride(0),
      num_threads(), nullptr};
  const Workspace workspace(kernels.forward_workspace(params));
  params.workspace = workspace.data();
  const ReleaseGil release(flops(T, D, R, 2));
  kernels.forward(params);
}

void backward(const Kernels& kernels, const Tensor& dy, const Tensor& x, const WeightTensors& weights, double eps,
              const Tensor& dx, const WeightTensors& gradients) {
  const Contract contract("adapter_mlp_backward", x.dtype());
  Dim T{"T"}, D{"D"}, R{"R"};
  contract.expect("x", x, {&T, &D}, Layout::rows);
  contract.expect("dy", dy, {&T, &D}, Layout::rows);
  const Weights checked = weights.expect(contract, D, R);
  if (checked.down.packed || checked.up.packed) fail("adapter_mlp_backward: packed weights have no gradient");
  contract.expect_output("dx", dx, {&T, &D});
  gradients.expect(contract, D, R);
  const auto& g = gradients;
  BackwardParams params{x.dtype(),
                        T,
                        D,
                        R,
                        dy.address(),
                        dy.stride(0),
                        x.address(),
                        x.stride(0),
                        checked,
                        static_cast<float>(eps),
                        dx.address(),
                        g.norm_weight.address(),
                        g.norm_bias.address(),
                        g.down_weight.address(),
                        g.down_bias.address(),
                        g.up_weight.address(),
                        g.up_bias.address(),
                        g.scaling.address(),
                        num_threads(),
                        nullptr};
  const Workspace workspace(kernels.backward_workspace(params));
  params.workspace = workspace.data();
  const ReleaseGil release(flops(T, D, R, 5));
  kernels.backward(params);
}

using In = const Tensor&;

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "adapter_mlp", isa, kernels.dtypes,
              [&kernels](In x, In norm_weight, In norm_bias, In down_weight, In down_bias, In up_weight, In up_bias,
                         In scaling, double eps, In y) {
                forward(kernels, x, {norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling}, eps,
                        y);
              });
  add_backend(m, "adapter_mlp_backward", isa, kernels.dtypes,
              [&kernels](In dy, In x, In norm_weight, In norm_bias, In down_weight, In down_bias, In up_weight,
                         In up_bias, In scaling, double eps, In dx, In d_norm_weight, In d_norm_bias, In d_down_weight,
                         In d_down_bias, In d_up_weight, In d_up_bias, In d_scaling) {
                backward(kernels, dy, x, {norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, scaling},
                         eps, dx,
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
