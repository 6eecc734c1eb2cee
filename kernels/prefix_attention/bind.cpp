#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "params.h"
#include "prefix_attention_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                                          \
  namespace isa {                                                  \
  extern const prefix_attention::Kernels prefix_attention_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using prefix_attention::BackwardParams;
using prefix_attention::ForwardParams;
using prefix_attention::Input;
using prefix_attention::Kernels;
using prefix_attention::kMaxHeadDim;
using prefix_attention::Output;
using prefix_attention::Problem;
using prefix_attention::SoftmaxStats;
using prefix_attention::Strides;
using In = const Tensor&;
using MaybeIn = const std::optional<Tensor>&;

/// The dimensions of one call; a packed call has no B, and Sq and Sk count the rows of all sequences.
struct Sizes {
  bool packed;
  Dim B{"B"}, Sq, Sk, H{"H"}, D{"D"};
  explicit Sizes(bool is_packed) : packed(is_packed), Sq(is_packed ? "Tq" : "Sq"), Sk(is_packed ? "Tk" : "Sk") {}

  void expect_rows(const Contract& contract, const char* argument, In tensor, Dim& rows) {
    packed ? contract.expect(argument, tensor, {&rows, &H, &D}, Layout::rows)
           : contract.expect(argument, tensor, {&B, &rows, &H, &D}, Layout::rows);
  }
  void expect_output(const Contract& contract, const char* argument, In tensor, Dim& rows) {
    packed ? contract.expect_output(argument, tensor, {&rows, &H, &D}, Layout::rows)
           : contract.expect_output(argument, tensor, {&B, &rows, &H, &D}, Layout::rows);
  }
  void expect_stats(const Contract& contract, In stats) {
    Dim two{"2", 2};
    packed ? contract.expect_dtype("stats", stats, DType::f32, {&H, &Sq, &two})
           : contract.expect_dtype("stats", stats, DType::f32, {&B, &H, &Sq, &two});
  }
};

Strides strides(In tensor) {
  const bool packed = tensor.ndim() == 3;
  return {packed ? 0 : tensor.stride(0), tensor.stride(-3 + tensor.ndim()), tensor.stride(-2 + tensor.ndim())};
}
Input input(In tensor) { return {tensor.address(), strides(tensor)}; }
Output output(In tensor) { return {tensor.address(), strides(tensor)}; }
SoftmaxStats softmax_stats(In tensor) {
  const bool packed = tensor.ndim() == 3;
  return {tensor.data<float>(), packed ? 0 : tensor.stride(0), tensor.stride(tensor.ndim() - 3)};
}

/// One call's mask arguments as Python gave them.
struct MaskArguments {
  const Tensor *prefix_lens, *kv_mask, *cu_seqlens_q, *cu_seqlens_k;
  bool causal;
  double softmax_scale;
};

const Tensor* pointer(MaybeIn tensor) { return tensor ? &*tensor : nullptr; }

/// Longest sequence; the bounds must start at 0, never fall, and end at the number of rows.
int64_t longest_sequence(const char* op, const char* argument, In cu_seqlens, int64_t num_rows) {
  const auto* bounds = cu_seqlens.data<int32_t>();
  const int64_t last = cu_seqlens.size(0) - 1;
  int64_t longest = 0;
  bool ordered = last >= 0 && bounds[0] == 0 && bounds[last] == num_rows;
  for (int64_t b = 0; ordered && b < last; ++b) {
    ordered = bounds[b] <= bounds[b + 1];
    longest = std::max<int64_t>(longest, bounds[b + 1] - bounds[b]);
  }
  if (!ordered) fail(op, ": ", argument, " must rise from 0 to ", num_rows, ", the number of packed rows");
  return longest;
}

/// The mask and the shapes, checked against the sizes that q, k and v fixed.
Problem problem(const char* op, const Contract& contract, DType dtype, Sizes& sizes, const MaskArguments& mask) {
  Problem p;
  p.dtype = dtype, p.num_heads = sizes.H, p.head_dim = sizes.D;
  p.causal = mask.causal, p.softmax_scale = static_cast<float>(mask.softmax_scale);
  p.max_seqlen_q = sizes.Sq, p.max_seqlen_k = sizes.Sk;
  if (sizes.packed) {
    Dim bounds{"B+1"};
    contract.expect_dtype("cu_seqlens_q", *mask.cu_seqlens_q, DType::i32, {&bounds});
    contract.expect_dtype("cu_seqlens_k", *mask.cu_seqlens_k, DType::i32, {&bounds});
    p.max_seqlen_q = longest_sequence(op, "cu_seqlens_q", *mask.cu_seqlens_q, sizes.Sq);
    p.max_seqlen_k = longest_sequence(op, "cu_seqlens_k", *mask.cu_seqlens_k, sizes.Sk);
    p.cu_seqlens_q = mask.cu_seqlens_q->data<int32_t>(), p.cu_seqlens_k = mask.cu_seqlens_k->data<int32_t>();
    sizes.B = Dim{"B", bounds - 1};
  }
  p.num_seqs = sizes.B;
  if (mask.prefix_lens != nullptr) {
    contract.expect_dtype("prefix_lens", *mask.prefix_lens, DType::i32, {&sizes.B});
    p.prefix_lens = mask.prefix_lens->data<int32_t>();
  }
  if (mask.kv_mask != nullptr) {
    contract.expect_dtype("kv_mask", *mask.kv_mask, DType::boolean, {&sizes.B, &sizes.Sk}, Layout::rows);
    p.kv_mask = mask.kv_mask->data<uint8_t>(), p.kv_mask_stride = mask.kv_mask->stride(0);
  }
  if (p.head_dim < 1 || p.head_dim > kMaxHeadDim) {
    fail(op, ": head_dim must be 1 to ", kMaxHeadDim, ", got ", p.head_dim);
  }
  return p;
}

/// Blocks of all heads of all sequences.
int64_t num_tasks(const Problem& p, int64_t max_seqlen, int64_t block) {
  return p.num_seqs * p.num_heads * ((max_seqlen + block - 1) / block);
}

/// Of the scores and what is made of them, as if no key were hidden and every sequence as long as the longest.
double flops(const Problem& p, int products) {
  return 2.0 * products * p.num_seqs * p.num_heads * p.head_dim * p.max_seqlen_q * p.max_seqlen_k;
}

/// Decoding a token of a small model takes less than waking a thread: about 5 us at the 12 flops/ns of one query.
constexpr double kWorthWaking = 1.5e5;

void forward(const Kernels& kernels, In q, In k, In v, const MaskArguments& mask, In o, In stats) {
  const char* op = mask.cu_seqlens_q == nullptr ? "prefix_attention" : "prefix_attention_varlen";
  const Contract contract(op, q.dtype());
  Sizes sizes(mask.cu_seqlens_q != nullptr);
  sizes.expect_rows(contract, "q", q, sizes.Sq);
  sizes.expect_rows(contract, "k", k, sizes.Sk);
  sizes.expect_rows(contract, "v", v, sizes.Sk);
  const Problem p = problem(op, contract, q.dtype(), sizes, mask);
  sizes.expect_output(contract, "o", o, sizes.Sq);
  sizes.expect_stats(contract, stats);
  const ForwardParams params{p, input(q), input(k), input(v), output(o), softmax_stats(stats)};
  const double work = flops(p, 2);
  const ReleaseGil release(work);
  parallel_for(
      num_tasks(p, p.max_seqlen_q, kernels.query_block), [&](int64_t task, int) { kernels.forward(params, task); },
      work > kWorthWaking);
}

struct Gradients {
  const Tensor &dq, &dk, &dv;
};

void backward(const Kernels& kernels, In d_o, In q, In k, In v, In o, In stats, const MaskArguments& mask,
              const Gradients& gradients) {
  const char* op = mask.cu_seqlens_q == nullptr ? "prefix_attention_backward" : "prefix_attention_varlen_backward";
  const Contract contract(op, q.dtype());
  Sizes sizes(mask.cu_seqlens_q != nullptr);
  sizes.expect_rows(contract, "q", q, sizes.Sq);
  sizes.expect_rows(contract, "k", k, sizes.Sk);
  sizes.expect_rows(contract, "v", v, sizes.Sk);
  const Problem p = problem(op, contract, q.dtype(), sizes, mask);
  sizes.expect_rows(contract, "o", o, sizes.Sq);
  sizes.expect_rows(contract, "do", d_o, sizes.Sq);
  sizes.expect_stats(contract, stats);
  sizes.expect_output(contract, "dq", gradients.dq, sizes.Sq);
  sizes.expect_output(contract, "dk", gradients.dk, sizes.Sk);
  sizes.expect_output(contract, "dv", gradients.dv, sizes.Sk);
  const BackwardParams params{p,
                              input(q),
                              input(k),
                              input(v),
                              input(o),
                              input(d_o),
                              softmax_stats(stats),
                              output(gradients.dq),
                              output(gradients.dk),
                              output(gradients.dv)};
  const double work = flops(p, 7);
  const ReleaseGil release(work);
  const int64_t query_tasks = num_tasks(p, p.max_seqlen_q, kernels.backward_query_block);
  const int64_t key_tasks = num_tasks(p, p.max_seqlen_k, kernels.key_block);
  parallel_for(
      query_tasks + key_tasks,
      [&](int64_t task, int) {
        task < query_tasks ? kernels.backward_q(params, task) : kernels.backward_kv(params, task - query_tasks);
      },
      work > kWorthWaking);
}

void add_dense(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(
      m, "prefix_attention", isa, kernels.dtypes,
      [&kernels](In q, In k, In v, MaybeIn prefix_lens, MaybeIn kv_mask, bool causal, double scale, In o, In stats) {
        const MaskArguments mask{pointer(prefix_lens), pointer(kv_mask), nullptr, nullptr, causal, scale};
        forward(kernels, q, k, v, mask, o, stats);
      });
  add_backend(m, "prefix_attention_backward", isa, kernels.dtypes,
              [&kernels](In d_o, In q, In k, In v, In o, In stats, MaybeIn prefix_lens, MaybeIn kv_mask, bool causal,
                         double scale, In dq, In dk, In dv) {
                const MaskArguments mask{pointer(prefix_lens), pointer(kv_mask), nullptr, nullptr, causal, scale};
                backward(kernels, d_o, q, k, v, o, stats, mask, {dq, dk, dv});
              });
}

void add_varlen(py::module_& m, const char* isa, const Kernels& kernels) {
  add_backend(m, "prefix_attention_varlen", isa, kernels.dtypes,
              [&kernels](In q, In k, In v, In cu_seqlens_q, In cu_seqlens_k, MaybeIn prefix_lens, bool causal,
                         double scale, In o, In stats) {
                const MaskArguments mask{pointer(prefix_lens), nullptr, &cu_seqlens_q, &cu_seqlens_k, causal, scale};
                forward(kernels, q, k, v, mask, o, stats);
              });
  add_backend(m, "prefix_attention_varlen_backward", isa, kernels.dtypes,
              [&kernels](In d_o, In q, In k, In v, In o, In stats, In cu_seqlens_q, In cu_seqlens_k,
                         MaybeIn prefix_lens, bool causal, double scale, In dq, In dk, In dv) {
                const MaskArguments mask{pointer(prefix_lens), nullptr, &cu_seqlens_q, &cu_seqlens_k, causal, scale};
                backward(kernels, d_o, q, k, v, o, stats, mask, {dq, dk, dv});
              });
}

}  // namespace

void bind_prefix_attention(py::module_& m) {
#define LYNX_ADD(isa)                                \
  add_dense(m, #isa, isa::prefix_attention_kernels); \
  add_varlen(m, #isa, isa::prefix_attention_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
