// What the kernels of prefix_attention are told: plain structs, pointers with their shapes and strides beside them.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace lynx::prefix_attention {

constexpr int64_t kMaxHeadDim = 256;
/// A row attends to at most this many keys at a time, counted from the sequence's first key. Part of what a row's bits
/// are: prefill and decoding cut a row at the same keys, whoever computes a span and when.
constexpr int64_t kSpan = 256;
/// Queries of a sequence up to which its keys are read from where they lie instead of being packed.
constexpr int64_t kFewQueries = 8;
/// Rows of queries of one decoding task, over all its heads.
constexpr int64_t kTaskRows = 64;

/// Floats of a row in a record of partial sums: o, filled up to a cache line, and a line for its maximum and sum.
__attribute__((always_inline)) constexpr int64_t record_row(int64_t head_dim) { return (head_dim + 15) / 16 * 16 + 16; }

/// Sequences, heads and the mask. Dense: sequence b is row b of a batch. Packed: rows cu_seqlens[b] to cu_seqlens[b + 1].
struct Problem {
  DType dtype = DType::f32;  // of q, k, v, o and their gradients
  int64_t num_seqs = 0;
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t max_seqlen_q = 0;  // of every sequence when dense, of the longest when packed
  int64_t max_seqlen_k = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_seqs + 1]; null: dense
  const int32_t* cu_seqlens_k = nullptr;  // [num_seqs + 1]; null: dense
  const int32_t* prefix_lens = nullptr;   // [num_seqs]; null: no bidirectional prefix
  const uint8_t* kv_mask = nullptr;       // [num_seqs, max_seqlen_k], 0 = hidden; null: every key may be seen
  int64_t kv_mask_stride = 0;
  float softmax_scale = 1.0f;
  bool causal = true;
};

/// [batch, row, head, head_dim] in elements, the last stride 1; packed tensors have batch 0.
struct Strides {
  int64_t batch = 0;
  int64_t row = 0;
  int64_t head = 0;
};

struct Input {
  const void* data = nullptr;
  Strides stride;
};
struct Output {
  void* data = nullptr;
  Strides stride;
};

/// float [batch, head, row, 2]: of each row of scores the maximum and the sum of exp(score - maximum). Backward gets P
/// from the pair as exactly as forward had it; from their log-sum-exp the rounding of a number near 6 would stay in P.
struct SoftmaxStats {
  float* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
};

/// How decoding is cut into tasks, which no bit of the result depends on.
struct Split {
  int64_t num_spans = 0;     // of the longest sequence
  int64_t heads = 0;         // heads of a task: the more, the longer the runs in which memory is read
  int64_t num_groups = 0;    // ceil(num_heads / heads)
  float* records = nullptr;  // [seq, head, num_spans, rows, record_row]: sums over each span
};

struct ForwardParams {
  Problem problem;
  Input q, k, v;
  Output o;
  SoftmaxStats stats;
  Split split;  // of decode_span and decode_merge
};

/// Workspace of one head's backward: delta of each query, and dQ in float32 with rows and head dim padded for tiles.
__attribute__((always_inline)) constexpr int64_t backward_floats(int64_t num_queries, int64_t head_dim) {
  return (num_queries + 15) / 16 * 16 + (num_queries + 31) / 32 * 32 * ((head_dim + 31) / 32 * 32);
}

struct BackwardParams {
  Problem problem;
  Input q, k, v, o, d_o;
  SoftmaxStats stats;
  Output dq, dk, dv;
};

/// Elements between blocks, rows of a block, and heads of a row, whose last stride is 1.
struct PagedStrides {
  int64_t block = 0;
  int64_t row = 0;
  int64_t head = 0;
};

/// [num_blocks, block_size, num_kv_heads, head_dim] in q's dtype, or int8 with a scale for each row of each head.
struct PagedCache {
  const void* data = nullptr;
  PagedStrides stride;
  const float* scales = nullptr;  // [num_blocks, block_size, num_kv_heads], head stride 1; null: not quantised
  PagedStrides scale_stride;
};

/// One token of each sequence against its paged cache.
struct PagedParams {
  DType dtype = DType::f32;  // of q and o
  int64_t num_seqs = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // a divisor of num_heads
  int64_t head_dim = 0;
  int64_t block_size = 0;
  const void* q = nullptr;  // [num_seqs, num_heads, head_dim]
  int64_t q_stride = 0;
  int64_t q_head = 0;
  PagedCache k, v;
  const int32_t* block_table = nullptr;  // [num_seqs, max_blocks]: block j / block_size of a sequence holds its key j
  int64_t block_table_stride = 0;
  const int32_t* seq_lens = nullptr;  // [num_seqs]: keys of each sequence
  float softmax_scale = 1.0f;
  void* o = nullptr;  // [num_seqs, num_heads, head_dim]
  Split split;
};

/// One backend. Task t of `forward` is block t % blocks of head t / blocks % num_heads of sequence t / blocks / num_heads,
/// where blocks = ceil(max_seqlen_q / query_block); tasks write disjoint rows and may run in any order.
struct Kernels {
  uint32_t dtypes = 0;
  void (*forward)(const ForwardParams&, int64_t task) = nullptr;
  void (*decode_span)(const ForwardParams&, int64_t task) = nullptr;  // see decode.h for the tasks of these four
  void (*decode_merge)(const ForwardParams&, int64_t task) = nullptr;
  void (*paged_span)(const PagedParams&, int64_t task) = nullptr;  // null: no paged_attention
  void (*paged_merge)(const PagedParams&, int64_t task) = nullptr;
  /// Task t: head t; the workspace is of the thread that runs it, `backward_floats` long.
  void (*backward)(const BackwardParams&, int64_t task, float* workspace) = nullptr;
  int64_t query_block = 0;  // queries of a task of `forward`
};

}  // namespace lynx::prefix_attention
