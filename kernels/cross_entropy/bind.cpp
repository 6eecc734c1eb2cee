#include <pybind11/pybind11.h>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "cross_entropy_backends.h"
#include "params.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                                    \
  namespace isa {                                            \
  extern const cross_entropy::Kernels cross_entropy_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using cross_entropy::Kernels;
using cross_entropy::Problem;
using cross_entropy::SoftmaxStats;
using In = const Tensor&;

/// The arguments that every entry point shares.
struct Call {
  const char* op;
  const Tensor &logits, &labels;
  int64_t ignore_index;
  double smoothing;

  Contract contract() const { return Contract(op, logits.dtype()); }

  /// Checks shapes and labels.
  Problem problem(Dim& T, Dim& V) const {
    contract().expect("logits", logits, {&T, &V}, Layout::rows);
    contract().expect_dtype("labels", labels, DType::i64, {&T});
    const auto* values = labels.data<int64_t>();
    for (int64_t t = 0; t < T; ++t) {
      if (values[t] != ignore_index && (values[t] < 0 || values[t] >= V)) {
        fail(op, ": labels must be ", ignore_index, " or in [0, ", static_cast<int64_t>(V), "), got ", values[t],
             " at ", t);
      }
    }
    return {
        logits.dtype(), T, V, logits.address(), logits.stride(0), values, ignore_index, static_cast<float>(smoothing)};
  }
};

// An exponential costs about as much as 20 FLOPs of a matrix product.
double flops(double T, double V, int exponentials) { return 20.0 * T * V * exponentials; }

void forward(const Kernels& kernels, const Call& call, In losses, In stats) {
  Dim T{"T"}, V{"V"};
  const Problem p = call.problem(T, V);
  const Contract rows(call.op, DType::f32);
  rows.expect_output("losses", losses, {&T});
  Dim two{"2", 2};
  rows.expect_output("stats", stats, {&T, &two});
  const ReleaseGil release(flops(T, V, 1));
  kernels.forward({p, losses.data<float>(), stats.data<SoftmaxStats>()});
}

void backward(const Kernels& kernels, const Call& call, In d_loss, In stats, double scale, In d_logits) {
  Dim T{"T"}, V{"V"};
  const Problem p = call.problem(T, V);
  const bool each = d_loss.ndim() == 1;
  each ? call.contract().expect("d_loss", d_loss, {&T}) : call.contract().expect("d_loss", d_loss, {});
  Dim two{"2", 2};
  call.contract().expect_dtype("stats", stats, DType::f32, {&T, &two});
  call.contract().expect_output("d_logits", d_logits, {&T, &V});
  const ReleaseGil release(flops(T, V, 1));
  kernels.backward(
      {p, stats.data<SoftmaxStats>(), d_loss.address(), each, static_cast<float>(scale), d_logits.address()});
}

void in_place(const Kernels& kernels, const Call& call, double scale, bool gradient, In losses) {
  Dim T{"T"}, V{"V"};
  const Problem p = call.problem(T, V);
  call.contract().expect_output("logits", call.logits, {&T, &V}, Layout::rows);
  Contract(call.op, DType::f32).expect_output("losses", losses, {&T});
  const ReleaseGil release(flops(T, V, 2));
  kernels.in_place({p, losses.data<float>(), static_cast<float>(scale), gradient});
}

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "cross_entropy", isa, kernels.dtypes,
              [&kernels](In logits, In labels, int64_t ignore_index, double smoothing, In losses, In stats) {
                forward(kernels, {"cross_entropy", logits, labels, ignore_index, smoothing}, losses, stats);
              });
  add_backend(m, "cross_entropy_backward", isa, kernels.dtypes,
              [&kernels](In d_loss, In logits, In labels, In stats, int64_t ignore_index, double smoothing,
                         double scale, In d_logits) {
                const Call call{"cross_entropy_backward", logits, labels, ignore_index, smoothing};
                backward(kernels, call, d_loss, stats, scale, d_logits);
              });
  add_backend(
      m, "fused_linear_cross_entropy", isa, kernels.dtypes,
      [&kernels](In logits, In labels, int64_t ignore_index, double smoothing, double scale, bool gradient, In losses) {
        const Call call{"fused_linear_cross_entropy", logits, labels, ignore_index, smoothing};
        in_place(kernels, call, scale, gradient, losses);
      });
}

}  // namespace

void bind_cross_entropy(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::cross_entropy_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
