#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string_view>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "params.h"
#include "rope_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                  \
  namespace isa {                          \
  extern const rope::Kernels rope_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using rope::Heads;
using rope::Kernels;
using rope::Params;
using In = const Tensor&;
using MaybeIn = const std::optional<Tensor>&;

Heads heads(In tensor) {
  const bool paged = tensor.ndim() == 3;
  return {tensor.address(), paged ? 0 : tensor.stride(0), tensor.stride(-3), tensor.stride(-2)};
}

/// The dimensions of one call; the inputs fix them.
struct Sizes {
  Dim B{"B"}, S{"S"}, Hq{"Hq"}, Hk{"Hk"}, D{"D"};

  Params expect_inputs(const char* op, const Contract& contract, In q, In k, In cos, In sin) {
    contract.expect("q", q, {&B, &S, &Hq, &D}, Layout::rows);
    contract.expect("k", k, {&B, &S, &Hk, &D}, Layout::rows);
    if (D % 2 != 0) fail(op, ": head_dim must be even, got ", static_cast<int64_t>(D));
    Dim tables{"B or 1", cos.ndim() > 0 && cos.size(0) == 1 ? 1 : static_cast<int64_t>(B)};
    contract.expect("cos", cos, {&tables, &S, &D});
    contract.expect("sin", sin, {&tables, &S, &D});
    Params p{};
    p.dtype = q.dtype(), p.B = B, p.S = S, p.q_heads = Hq, p.k_heads = Hk, p.D = D;
    p.q = heads(q), p.k = heads(k), p.cos = cos.address(), p.sin = sin.address();
    p.table_batch = tables == 1 ? 0 : S * D;
    return p;
  }
  // An element costs about as much as 6 FLOPs of a matrix product.
  double flops() const { return 6.0 * B * S * (Hq + Hk) * D; }
};

/// The outputs may be the inputs.
void rotate(const Kernels& kernels, const char* op, bool inverse, In q, In k, In cos, In sin, In q_out, In k_out) {
  const Contract contract(op, q.dtype());
  Sizes sizes;
  Params p = sizes.expect_inputs(op, contract, q, k, cos, sin);
  contract.expect_output("q_out", q_out, {&sizes.B, &sizes.S, &sizes.Hq, &sizes.D}, Layout::rows);
  contract.expect_output("k_out", k_out, {&sizes.B, &sizes.S, &sizes.Hk, &sizes.D}, Layout::rows);
  p.inverse = inverse, p.q_out = heads(q_out), p.k_out = heads(k_out);
  const ReleaseGil release(sizes.flops());
  kernels.rotate(p);
}

void expect_range(const char* op, const char* argument, In places, int64_t lowest, int64_t highest) {
  const auto* values = places.data<int64_t>();
  for (int64_t i = 0, count = places.numel(); i < count; ++i) {
    if (values[i] < lowest || values[i] > highest) {
      fail(op, ": ", argument, " must be in [", lowest, ", ", highest, "], got ", values[i], " at ", i);
    }
  }
}

void append(const Kernels& kernels, In q, In k, In v, In cos, In sin, In k_cache, In v_cache, MaybeIn starts,
            MaybeIn slots, In q_out) {
  const char* op = "rope_append_kv";
  const Contract contract(op, q.dtype());
  Sizes sizes;
  auto& [B, S, Hq, Hk, D] = sizes;
  Params p = sizes.expect_inputs(op, contract, q, k, cos, sin);
  contract.expect("v", v, {&B, &S, &Hk, &D}, Layout::rows);
  contract.expect_output("q_out", q_out, {&B, &S, &Hq, &D}, Layout::rows);
  if (slots) {
    Dim num_slots{"num_slots"};
    contract.expect_output("k_cache", k_cache, {&num_slots, &Hk, &D}, Layout::rows);
    contract.expect_output("v_cache", v_cache, {&num_slots, &Hk, &D}, Layout::rows);
    contract.expect_dtype("slots", *slots, DType::i64, {&B, &S});
    expect_range(op, "slots", *slots, -1, num_slots - 1);
    p.places.slots = slots->data<int64_t>();
  } else {
    Dim max_len{"max_len"};
    contract.expect_output("k_cache", k_cache, {&B, &max_len, &Hk, &D}, Layout::rows);
    contract.expect_output("v_cache", v_cache, {&B, &max_len, &Hk, &D}, Layout::rows);
    contract.expect_dtype("starts", *starts, DType::i64, {&B});
    expect_range(op, "starts", *starts, 0, max_len - S);
    p.places.starts = starts->data<int64_t>();
  }
  p.v = heads(v), p.q_out = heads(q_out), p.k_out = heads(k_cache), p.v_out = heads(v_cache);
  const ReleaseGil release(sizes.flops());
  kernels.rotate(p);
}

void add_kernels(py::module_& m, const char* isa, const Kernels& kernels) {
  for (const char* op : {"rope", "rope_", "rope_backward"}) {
    const bool inverse = op == std::string_view("rope_backward");
    add_backend(m, op, isa, kernels.dtypes, [&kernels, op, inverse](In q, In k, In cos, In sin, In q_out, In k_out) {
      rotate(kernels, op, inverse, q, k, cos, sin, q_out, k_out);
    });
  }
  add_backend(m, "rope_append_kv", isa, kernels.dtypes,
              [&kernels](In q, In k, In v, In cos, In sin, In k_cache, In v_cache, MaybeIn starts, MaybeIn slots,
                         In q_out) { append(kernels, q, k, v, cos, sin, k_cache, v_cache, starts, slots, q_out); });
}

}  // namespace

void bind_rope(py::module_& m) {
#define LYNX_ADD(isa) add_kernels(m, #isa, isa::rope_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
