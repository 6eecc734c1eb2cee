#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>

#include "core/backends.h"
#include "core/contract.h"
#include "core/gil.h"
#include "core/parallel.h"
#include "core/workspace.h"
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
using prefix_attention::kFewQueries;
using prefix_attention::kMaxHeadDim;
using prefix_attention::kSpan;
using prefix_attention::kTaskRows;
using prefix_attention::Output;
using prefix_attention::PagedCache;
using prefix_attention::PagedParams;
using prefix_attention::Problem;
using prefix_attention::SoftmaxStats;
using prefix_attention::Split;
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

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Decoding cut into tasks: as many heads in each as fit, fewer when tasks would not fill the threads; records are null.
Split split(int64_t num_seqs, int64_t num_heads, int64_t rows, int64_t num_keys) {
  constexpr int64_t kFewestHeads = 4;  // shorter runs in memory: 22 instead of 25 GB/s at 8, 16 at 4 heads (Zen 5)
  Split s;
  s.num_spans = std::max<int64_t>(1, ceil_div(num_keys, kSpan));
  s.heads = std::clamp<int64_t>(kTaskRows / std::max<int64_t>(1, rows), 1, std::max<int64_t>(1, num_heads));
  const auto tasks = [&] { return num_seqs * s.num_spans * ceil_div(num_heads, s.heads); };
  while (s.heads > kFewestHeads && tasks() < 2 * num_threads()) s.heads = (s.heads + 1) / 2;
  s.num_groups = ceil_div(num_heads, s.heads);
  return s;
}

/// Spans in parallel, then their sums.
template <class Params>
void decode(Params& params, int64_t num_seqs, int64_t num_heads, int64_t rows, int64_t num_keys, int64_t head_dim,
            double work, void (*span)(const Params&, int64_t), void (*merge)(const Params&, int64_t)) {
  params.split = split(num_seqs, num_heads, rows, num_keys);
  const int64_t floats = num_seqs * num_heads * params.split.num_spans * rows * prefix_attention::record_row(head_dim);
  const Workspace workspace(floats * static_cast<int64_t>(sizeof(float)));
  params.split.records = reinterpret_cast<float*>(workspace.data());
  const ReleaseGil release(work);
  parallel_for(
      num_seqs * params.split.num_spans * params.split.num_groups, [&](int64_t task, int) { span(params, task); },
      work > kWorthWaking);
  parallel_for(num_seqs * num_heads, [&](int64_t task, int) { merge(params, task); }, floats > 100000);
}

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
  ForwardParams params{p, input(q), input(k), input(v), output(o), softmax_stats(stats), {}};
  const double work = flops(p, 2);
  if (p.max_seqlen_q <= kFewQueries) {
    return decode(params, p.num_seqs, p.num_heads, p.max_seqlen_q, p.max_seqlen_k, p.head_dim, work,
                  kernels.decode_span, kernels.decode_merge);
  }
  const ReleaseGil release(work);
  parallel_for(
      num_tasks(p, p.max_seqlen_q, kernels.query_block), [&](int64_t task, int) { kernels.forward(params, task); },
      work > kWorthWaking);
}

/// A cache of keys or values, and its scales where it is int8.
PagedCache paged_cache(const Contract& contract, const char* argument, In cache, MaybeIn scale, Dim& N, Dim& S, Dim& H,
                       Dim& D, DType dtype) {
  const auto strides = [](In x) { return prefix_attention::PagedStrides{x.stride(0), x.stride(1), x.stride(2)}; };
  PagedCache found;
  contract.expect_dtype(argument, cache, scale ? DType::i8 : dtype, {&N, &S, &H, &D}, Layout::rows);
  found.data = cache.address(), found.stride = strides(cache);
  if (scale) {
    contract.expect_dtype("scale", *scale, DType::f32, {&N, &S, &H}, Layout::rows);
    found.scales = scale->data<float>();
    found.scale_stride = {scale->stride(0), scale->stride(1), 1};
  }
  return found;
}

/// Longest sequence; the lengths must fit the table, and the blocks that they use must be there.
int64_t longest_paged(In block_table, In seq_lens, int64_t num_blocks, int64_t block_size) {
  int64_t longest = 0;
  for (int64_t b = 0; b < seq_lens.size(0); ++b) {
    const int64_t length = seq_lens.data<int32_t>()[b], room = block_table.size(1) * block_size;
    if (length < 0 || length > room) {
      fail("paged_attention: seq_lens[", b, "] must be 0 to ", room, ", what block_table[", b, "] holds, got ", length);
    }
    const auto* blocks = block_table.data<int32_t>() + b * block_table.stride(0);
    for (int64_t i = 0; i * block_size < length; ++i) {
      if (blocks[i] >= 0 && blocks[i] < num_blocks) continue;
      fail("paged_attention: block_table[", b, ", ", i, "] must be 0 to ", num_blocks - 1, ", got ", blocks[i]);
    }
    longest = std::max(longest, length);
  }
  return longest;
}

void paged(const Kernels& kernels, In q, In k_cache, In v_cache, In block_table, In seq_lens, MaybeIn k_scale,
           MaybeIn v_scale, double softmax_scale, In o) {
  const Contract contract("paged_attention", q.dtype());
  Dim B{"B"}, H{"H"}, D{"D"}, N{"num_blocks"}, S{"block_size"}, K{"num_kv_heads"}, max_blocks{"max_blocks"};
  PagedParams p;
  contract.expect("q", q, {&B, &H, &D}, Layout::rows);
  p.k = paged_cache(contract, "k_cache", k_cache, k_scale, N, S, K, D, q.dtype());
  p.v = paged_cache(contract, "v_cache", v_cache, v_scale, N, S, K, D, q.dtype());
  contract.expect_dtype("block_table", block_table, DType::i32, {&B, &max_blocks}, Layout::rows);
  contract.expect_dtype("seq_lens", seq_lens, DType::i32, {&B});
  contract.expect_output("o", o, {&B, &H, &D});
  if (H > 0 && (K == 0 || H % K != 0 || H / K > kTaskRows)) {
    fail("paged_attention: ", static_cast<int64_t>(H), " query heads need num_kv_heads to divide them, at most ",
         kTaskRows, " to one, got ", static_cast<int64_t>(K));
  }
  if (D < 1 || D > kMaxHeadDim) fail("paged_attention: head_dim must be 1 to ", kMaxHeadDim, ", got ", int64_t{D});
  const int64_t num_keys = longest_paged(block_table, seq_lens, N, S);
  if (H == 0) return;
  p.dtype = q.dtype(), p.num_seqs = B, p.num_heads = H, p.num_kv_heads = K, p.head_dim = D, p.block_size = S;
  p.q = q.address(), p.q_stride = q.stride(0), p.q_head = q.stride(1);
  p.block_table = block_table.data<int32_t>(), p.block_table_stride = block_table.stride(0);
  p.seq_lens = seq_lens.data<int32_t>(), p.softmax_scale = static_cast<float>(softmax_scale), p.o = o.address();
  const double work = 4.0 * B * H * D * static_cast<double>(num_keys);
  decode(p, B, K, H / K, num_keys, D, work, kernels.paged_span, kernels.paged_merge);
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
  const double work = flops(p, 5);
  const int64_t floats = prefix_attention::backward_floats(p.max_seqlen_q, p.head_dim);
  const Workspace workspace(num_threads() * aligned_bytes(floats, sizeof(float)));
  auto* memory = reinterpret_cast<float*>(workspace.data());
  const ReleaseGil release(work);
  parallel_for(
      p.num_seqs * p.num_heads,
      [&](int64_t task, int worker) { kernels.backward(params, task, memory + worker * floats); }, work > kWorthWaking);
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

void add_paged(py::module_& m, const char* isa, const Kernels& kernels) {
  if (kernels.paged_span == nullptr) return;
  add_backend(m, "paged_attention", isa, kernels.dtypes,
              [&kernels](In q, In k_cache, In v_cache, In block_table, In seq_lens, MaybeIn k_scale, MaybeIn v_scale,
                         double softmax_scale, In o) {
                paged(kernels, q, k_cache, v_cache, block_table, seq_lens, k_scale, v_scale, softmax_scale, o);
              });
}

}  // namespace

void bind_prefix_attention(py::module_& m) {
#define LYNX_ADD(isa)                                 \
  add_dense(m, #isa, isa::prefix_attention_kernels);  \
  add_varlen(m, #isa, isa::prefix_attention_kernels); \
  add_paged(m, #isa, isa::prefix_attention_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
}

}  // namespace lynx
