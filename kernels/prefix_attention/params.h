// What the kernels of prefix_attention are told: plain structs, pointers with their shapes and strides beside them.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace lynx::prefix_attention {

constexpr int64_t kMaxHeadDim = 256;

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

struct ForwardParams {
  Problem problem;
  Input q, k, v;
  Output o;
  SoftmaxStats stats;
};

struct BackwardParams {
  Problem problem;
  Input q, k, v, o, d_o;
  SoftmaxStats stats;
  Output dq, dk, dv;
};

/// One backend. Task t of a pass is block t % blocks of head t / blocks % num_heads of sequence
/// t / blocks / num_heads, where blocks = ceil(max_seqlen / block); tasks write disjoint rows and may run in any order.
struct Kernels {
  uint32_t dtypes = 0;
  void (*forward)(const ForwardParams&, int64_t task) = nullptr;
  void (*backward_q)(const BackwardParams&, int64_t task) = nullptr;
  void (*backward_kv)(const BackwardParams&, int64_t task) = nullptr;
  int64_t query_block = 0;           // queries of a task of `forward`
  int64_t backward_query_block = 0;  // queries of a task of `backward_q`
  int64_t key_block = 0;             // keys of a task of `backward_kv`
};

}  // namespace lynx::prefix_attention
