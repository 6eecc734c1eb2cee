// One head of one sequence: its rows, which keys a query sees, and the blocks in which they are visited.
#pragma once
#include <cstdint>

#include "cpu/isa.h"
#include "cpu/loops.h"
#include "cpu/vec.h"
#include "params.h"

namespace lynx::LYNX_ISA::prefix_attention {

using namespace lynx::prefix_attention;

constexpr float kLowest = -3.402823466e+38f;  // a hidden score: finite, so that a row of nothing else is uniform
constexpr float kInfinity = __builtin_inff();

LYNX_INLINE constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
LYNX_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }
LYNX_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
LYNX_INLINE int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

LYNX_INLINE bool is_nan(float x) { return x != x; }

/// Rows of one head: row r starts at data + r * ld and holds head_dim contiguous numbers.
template <class T>
struct Rows {
  T* data;
  int64_t ld;
  LYNX_INLINE T* operator[](int64_t r) const { return data + r * ld; }
};

/// Which block of which head of which sequence a task is.
struct Place {
  int64_t seq, head, block;
  LYNX_INLINE Place(int64_t seq, int64_t head, int64_t block) : seq(seq), head(head), block(block) {}
  LYNX_INLINE Place(const Problem& p, int64_t task, int64_t max_seqlen, int64_t block_rows) {
    const int64_t blocks = ceil_div(max_seqlen, block_rows);
    block = task % blocks;
    head = task / blocks % p.num_heads;
    seq = task / blocks / p.num_heads;
  }
};

/// The mask of one sequence. The keys that query i may see are [0, key_limit(i)) without the holes of kv_mask.
struct Mask {
  int64_t first_q = 0, first_k = 0;  // where a packed sequence starts
  int64_t num_queries, num_keys, prefix_len;
  const uint8_t* kv_mask;
  bool causal;

  LYNX_INLINE Mask(const Problem& p, int64_t seq) : num_queries(p.max_seqlen_q), num_keys(p.max_seqlen_k) {
    if (p.cu_seqlens_q != nullptr) {
      first_q = p.cu_seqlens_q[seq], num_queries = p.cu_seqlens_q[seq + 1] - first_q;
      first_k = p.cu_seqlens_k[seq], num_keys = p.cu_seqlens_k[seq + 1] - first_k;
    }
    prefix_len = p.prefix_lens == nullptr ? 0 : p.prefix_lens[seq];
    kv_mask = p.kv_mask == nullptr ? nullptr : p.kv_mask + seq * p.kv_mask_stride;
    causal = p.causal;
  }

  /// The last query stands at the last key's position.
  LYNX_INLINE int64_t position(int64_t i) const { return i + num_keys - num_queries; }

  LYNX_INLINE int64_t key_limit(int64_t i) const {
    if (!causal) return num_keys;
    const int64_t limit = position(i) < prefix_len ? prefix_len : position(i) + 1;
    return max_of(0, min_of(limit, num_keys));
  }
  /// The same relation from the key's side: key j is seen by the queries [query_start(j), num_queries).
  LYNX_INLINE int64_t query_start(int64_t j) const {
    if (!causal || j < prefix_len) return 0;
    return max_of(0, min_of(j - (num_keys - num_queries), num_queries));
  }
  /// Which keys from `first` on are no holes, by their byte; null: all.
  LYNX_INLINE const uint8_t* flags(int64_t first) const { return kv_mask == nullptr ? nullptr : kv_mask + first; }
};

template <class T>
LYNX_INLINE Rows<const T> query_rows(const Input& x, const Mask& mask, const Place& place) {
  const Strides& s = x.stride;
  return {static_cast<const T*>(x.data) + place.seq * s.batch + mask.first_q * s.row + place.head * s.head, s.row};
}
template <class T>
LYNX_INLINE Rows<const T> key_rows(const Input& x, const Mask& mask, const Place& place) {
  const Strides& s = x.stride;
  return {static_cast<const T*>(x.data) + place.seq * s.batch + mask.first_k * s.row + place.head * s.head, s.row};
}
template <class T>
LYNX_INLINE Rows<T> query_rows(const Output& x, const Mask& mask, const Place& place) {
  const Strides& s = x.stride;
  return {static_cast<T*>(x.data) + place.seq * s.batch + mask.first_q * s.row + place.head * s.head, s.row};
}
template <class T>
LYNX_INLINE Rows<T> key_rows(const Output& x, const Mask& mask, const Place& place) {
  const Strides& s = x.stride;
  return {static_cast<T*>(x.data) + place.seq * s.batch + mask.first_k * s.row + place.head * s.head, s.row};
}

/// Maximum and sum of the rows of scores of one head.
struct RowStats {
  float* data;
  LYNX_INLINE RowStats(const SoftmaxStats& stats, const Mask& mask, const Place& place)
      : data(stats.data + place.seq * stats.batch_stride + place.head * stats.head_stride + 2 * mask.first_q) {}
  LYNX_INLINE float& max(int64_t i) const { return data[2 * i]; }
  LYNX_INLINE float& sum(int64_t i) const { return data[2 * i + 1]; }
};

/// True when a number of rows [begin, end) is NaN or infinite: 0 * x tells, and keeps telling when summed.
template <class T>
LYNX_INLINE bool has_nonfinite(Rows<T> rows, int64_t begin, int64_t end, int64_t dim) {
  Vec sum[4] = {zero(), zero(), zero(), zero()};  // four chains: one would take the latency of an addition a vector
  for (int64_t r = begin; r < end; r += 4) {
    for_vectors(dim, [&](int64_t d, int64_t n) {
      for (int64_t i = 0; i < 4; ++i) sum[i] = fma(load_some(rows[min_of(r + i, end - 1)] + d, n), zero(), sum[i]);
    });
  }
  return hsum(add(add(sum[0], sum[1]), add(sum[2], sum[3]))) != 0.0f;
}

/// Asks for a row ahead of its use: rows of one head are too far apart for the hardware to guess the next one.
template <class T>
LYNX_INLINE void prefetch_row(const T* row, int64_t dim) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(row + d);
}

LYNX_INLINE void fill(float* begin, float* end, float value) {
  for (; begin < end; ++begin) *begin = value;
}

}  // namespace lynx::LYNX_ISA::prefix_attention
