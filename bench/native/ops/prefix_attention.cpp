#include "prefix_attention/params.h"

#include "counted.h"
#include "prefix_attention_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                                          \
  namespace isa {                                                  \
  extern const prefix_attention::Kernels prefix_attention_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::prefix_attention;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t queries, keys, head_dim;
};
// A decoded token over two blocks of keys, a short prefill, float32; small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, 1, 72, 32}, {DType::bf16, 12, 20, 24}, {DType::f32, 6, 6, 16}};

int64_t tasks(int64_t rows, int64_t block) { return (rows + block - 1) / block; }

/// One head of one causal sequence.
Problem problem(const Sizes& s) {
  Problem p;
  p.dtype = s.dtype, p.num_seqs = 1, p.num_heads = 1, p.head_dim = s.head_dim;
  p.max_seqlen_q = s.queries, p.max_seqlen_k = s.keys, p.softmax_scale = 0.2f;
  return p;
}

/// The tensors of one call, each [rows, head_dim].
struct Tensors {
  const Sizes& s;
  Strides stride(int64_t rows) const { return {rows * s.head_dim, s.head_dim, s.head_dim}; }
  Input input(int64_t rows, uint32_t seed) const {
    return {numbers(s.dtype, rows * s.head_dim, 1.0f, seed), stride(rows)};
  }
  Output output(int64_t rows) const { return {zeros(rows * s.head_dim * size_of(s.dtype)), stride(rows)}; }
};

ForwardParams forward_params(const Sizes& s) {
  const Tensors make{s};
  const SoftmaxStats stats{static_cast<float*>(zeros(s.queries * 2 * 4)), s.queries * 2, s.queries * 2};
  return {problem(s), make.input(s.queries, 1), make.input(s.keys, 2), make.input(s.keys, 3), make.output(s.queries),
          stats};
}

/// A token against its cache, one head: what the binding does for few queries.
Call decode(const Kernels& kernels, const Sizes& s) {
  ForwardParams params = forward_params(s);
  params.split = {tasks(s.keys, kSpan), 1, 1, nullptr};
  params.split.records = static_cast<float*>(zeros(params.split.num_spans * record_row(s.head_dim) * 4));
  return [&kernels, p = params] {
    for (int64_t task = 0; task < p.split.num_spans; ++task) kernels.decode_span(p, task);
    kernels.decode_merge(p, 0);
  };
}

Call forward(const Kernels& kernels, const Sizes& s) {
  if (s.queries == 1) return decode(kernels, s);
  return [&kernels, p = forward_params(s)] {
    for (int64_t task = 0; task < tasks(p.problem.max_seqlen_q, kernels.query_block); ++task) kernels.forward(p, task);
  };
}

Call backward(const Kernels& kernels, const Sizes& s) {
  const ForwardParams f = forward_params(s);
  for (int64_t task = 0; task < tasks(s.queries, kernels.query_block); ++task) kernels.forward(f, task);
  const Tensors make{s};
  const Input o{f.o.data, f.o.stride};
  const BackwardParams p{f.problem,
                         f.q,
                         f.k,
                         f.v,
                         o,
                         make.input(s.queries, 4),
                         f.stats,
                         make.output(s.queries),
                         make.output(s.keys),
                         make.output(s.keys)};
  auto* workspace = static_cast<float*>(zeros(backward_floats(s.queries, s.head_dim) * 4));
  return [&kernels, p, workspace] { kernels.backward(p, 0, workspace); };
}

std::string name(const char* mode, const Sizes& s) {
  return std::string(mode) + " " + lynx::name(s.dtype) + " Sq=" + std::to_string(s.queries) +
         " Sk=" + std::to_string(s.keys) + " D=" + std::to_string(s.head_dim);
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    if ((kernels.dtypes & dtype_set(s.dtype)) == 0) continue;
    all_calls().push_back({"prefix_attention", isa, name("forward", s), [&kernels, s] { return forward(kernels, s); }});
    if (s.queries == 1) continue;
    all_calls().push_back(
        {"prefix_attention", isa, name("backward", s), [&kernels, s] { return backward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::prefix_attention_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
