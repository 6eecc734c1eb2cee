#include <pybind11/pybind11.h>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "params.h"
#include "swiglu_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                      \
  namespace isa {                              \
  extern const swiglu::Kernels swiglu_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using swiglu::Kernels;
using swiglu::Rows;
using In = const Tensor&;

// An element costs about as much as 20 FLOPs of a matrix product.
double flops(double T, double N) { return 20.0 * T * N; }

Rows rows(In tensor) { return {tensor.address(), tensor.ndim() == 2 ? tensor.stride(0) : tensor.size(-1)}; }

void forward(const Kernels& kernels, In gate, In up, In y) {
  const Contract contract("swiglu", gate.dtype());
  Dim T{"T"}, N{"N"};
  contract.expect_rows("gate", gate, T, N);
  contract.expect_rows("up", up, T, N);
  contract.expect_output_rows("y", y, T, N);
  const ReleaseGil release(flops(T, N));
  kernels.forward({gate.dtype(), T, N, rows(gate), rows(up), y.address()});
}

void backward(const Kernels& kernels, In dy, In gate, In up, In d_gate, In d_up) {
  const Contract contract("swiglu_backward", gate.dtype());
  Dim T{"T"}, N{"N"};
  contract.expect_rows("gate", gate, T, N);
  contract.expect_rows("up", up, T, N);
  contract.expect_rows("dy", dy, T, N);
  contract.expect_output_rows("d_gate", d_gate, T, N);
  contract.expect_output_rows("d_up", d_up, T, N);
  const ReleaseGil release(flops(T, N));
  kernels.backward({gate.dtype(), T, N, rows(dy), rows(gate), rows(up), d_gate.address(), d_up.address()});
}

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "swiglu", isa, kernels.dtypes, [&kernels](In gate, In up, In y) { forward(kernels, gate, up, y); });
  add_backend(m, "swiglu_backward", isa, kernels.dtypes,
              [&kernels](In dy, In gate, In up, In d_gate, In d_up) { backward(kernels, dy, gate, up, d_gate, d_up); });
}

}  // namespace

void bind_swiglu(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::swiglu_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
