// Decoding against a paged KV cache: blocks of a sequence's keys lie anywhere, and a table says where. The arithmetic is
// that of decode.h, so a token's bits do not depend on how its cache is laid out.
#pragma once
#include "decode.h"

namespace lynx::LYNX_ISA::prefix_attention {

/// Rows of keys or values of one sequence, for the heads from some head on.
template <class T>
struct PagedRows {
  const T* data;
  const float* scales;
  const int32_t* block_table;
  uint32_t block_size;
  PagedStrides stride, scale_stride;

  LYNX_INLINE PagedRows(const PagedParams& params, const PagedCache& cache, int64_t seq, int64_t head)
      : data(static_cast<const T*>(cache.data) + head * cache.stride.head),
        scales(cache.scales == nullptr ? nullptr : cache.scales + head),
        block_table(params.block_table + seq * params.block_table_stride),
        block_size(static_cast<uint32_t>(params.block_size)),
        stride(cache.stride),
        scale_stride(cache.scale_stride) {}

  LYNX_INLINE int64_t offset(int64_t j, const PagedStrides& s) const {
    const auto key = static_cast<uint32_t>(j);
    return block_table[key / block_size] * s.block + key % block_size * s.row;
  }
  LYNX_INLINE const T* operator[](int64_t j) const { return data + offset(j, stride); }
  LYNX_INLINE const float* scale(int64_t j) const { return scales + offset(j, scale_stride); }
};

template <class T>
struct PagedKeys {
  using Element = T;
  static constexpr bool kScaled = sizeof(T) == 1;
  PagedRows<T> k_rows, v_rows;
  int64_t k_head, v_head, count;
  LYNX_INLINE const T* k(int64_t j) const { return k_rows[j]; }
  LYNX_INLINE const T* v(int64_t j) const { return v_rows[j]; }
  LYNX_INLINE const float* k_scales(int64_t j) const { return k_rows.scale(j); }
  LYNX_INLINE const float* v_scales(int64_t j) const { return v_rows.scale(j); }
};

/// Task t: span s of the KV heads of group g of sequence b, where t = (b * num_spans + s) * num_groups + g.
template <class Math, class Q, class T>
void paged_span(const PagedParams& params, int64_t task) {
  const Split& split = params.split;
  const int64_t group = task % split.num_groups, span = task / split.num_groups % split.num_spans;
  const int64_t seq = task / split.num_groups / split.num_spans, first_head = group * split.heads;
  const int64_t num_keys = params.seq_lens[seq], rows = params.num_heads / params.num_kv_heads;
  if (span * kSpan >= num_keys) return;

  Queries<Math> queries;
  queries.heads = min_of(split.heads, params.num_kv_heads - first_head);
  queries.rows = rows, queries.dim = params.head_dim, queries.softmax_scale = params.softmax_scale;
  for (int64_t r = 0; r < rows; ++r) queries.key_limit[r] = num_keys;
  const Q* const q = static_cast<const Q*>(params.q) + seq * params.q_stride;
  for (int64_t h = 0; h < queries.heads; ++h) {
    queries.pack(h, Rows<const Q>{q + (first_head + h) * rows * params.q_head, params.q_head});
  }
  const PagedKeys<T> keys{PagedRows<T>(params, params.k, seq, first_head),
                          PagedRows<T>(params, params.v, seq, first_head), params.k.stride.head, params.v.stride.head,
                          num_keys};
  const auto record = [&](int64_t h) __attribute__((always_inline)) {
    const int64_t index = (seq * params.num_kv_heads + first_head + h) * split.num_spans + span;
    return Record(split.records, index, rows, params.head_dim);
  };
  DecodeSpan<Math, PagedKeys<T>>(queries, keys, span * kSpan).run(record);
}

/// Task t: the query heads of KV head t from the records of its spans.
template <class Q>
void paged_merge(const PagedParams& params, int64_t task) {
  const int64_t seq = task / params.num_kv_heads, kv_head = task % params.num_kv_heads;
  const int64_t rows = params.num_heads / params.num_kv_heads, dim = params.head_dim;
  const int64_t num_spans = ceil_div(params.seq_lens[seq], kSpan);
  float* const records = Record(params.split.records, task * params.split.num_spans, rows, dim).data;
  for (int64_t r = 0; r < rows; ++r) {
    Q* const o = static_cast<Q*>(params.o) + (seq * params.num_heads + kv_head * rows + r) * dim;
    if (num_spans == 0) {
      for_vectors(dim, [&](int64_t d, int64_t n) { store_some(o + d, zero(), n); });
      continue;
    }
    const Partial row = merged_row(records, num_spans, rows, r, dim);
    const Vec sum = set1(row.sum);
    for_vectors(dim, [&](int64_t d, int64_t n) { store_some(o + d, div(load(row.o + d), sum), n); });
  }
}

/// The function for the element types of a call.
template <class Math, class Q>
void paged_span_of(const PagedParams& params, int64_t task) {
  params.k.scales != nullptr ? paged_span<Math, Q, int8_t>(params, task) : paged_span<Math, Q, Q>(params, task);
}

}  // namespace lynx::LYNX_ISA::prefix_attention
