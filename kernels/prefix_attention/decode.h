// Decoding: few queries a head against all keys of a sequence, which are read once (stream.h).
//
// A task is one span of keys for some heads that lie side by side in memory; it leaves its sums in records, and the spans
// of a head are put together in their order. The bits are those of forward.h, whoever computes what.
#pragma once
#include "forward.h"
#include "stream.h"

namespace lynx::LYNX_ISA::prefix_attention {

/// What the rows of one head have summed over some keys: of each row o, and behind it maximum and sum.
struct Record {
  float* data;
  int64_t ld;
  LYNX_INLINE Record(float* records, int64_t index, int64_t rows, int64_t dim)
      : data(records + index * rows * record_row(dim)), ld(record_row(dim)) {}
  LYNX_INLINE float* o(int64_t r) const { return data + r * ld; }
  LYNX_INLINE float& max(int64_t r) const { return data[(r + 1) * ld - 2]; }
  LYNX_INLINE float& sum(int64_t r) const { return data[(r + 1) * ld - 1]; }
  LYNX_INLINE Partial row(int64_t r) const { return {max(r), sum(r), o(r)}; }
};

/// Row r over all its keys: the records of its spans put together, the first one changed.
LYNX_INLINE Partial merged_row(float* records, int64_t num_spans, int64_t rows, int64_t r, int64_t dim) {
  Partial total = Record(records, 0, rows, dim).row(r);
  for (int64_t span = 1; span < num_spans; ++span) merge(total, Record(records, span, rows, dim).row(r), dim);
  return total;
}

/// The queries of some heads of one sequence, `rows` for each head: positions of one head, or heads of one group.
template <class Math>
struct Queries {
  alignas(64) typename Math::Operand q[kTaskRows * kMaxHeadDim];
  int64_t heads, rows, dim;
  float softmax_scale;
  int64_t key_limit[kTaskRows];
  const uint8_t* kv_mask = nullptr;

  LYNX_INLINE int64_t ldq() const { return round_up(dim, Stream<Math>::kStep * Stream<Math>::kPerWord); }
  template <class Source>
  LYNX_INLINE void pack(int64_t head, const Source& src) {
    PanelGemm<Math>::pack_a(q + head * rows * ldq(), ldq(), src, rows, dim);
  }
  LYNX_INLINE const float* words(int64_t head) const { return reinterpret_cast<const float*>(q + head * rows * ldq()); }
};

/// One span of keys [first, first + count) for the heads of `queries`.
///
/// `Keys` gives k(j) and v(j), the rows of the first head, k_head and v_head, the distances to the next one, and `count`;
/// with kScaled, k_scales(j)[h] and v_scales(j)[h], the factors of those rows.
template <class Math, class Keys>
class DecodeSpan {
 public:
  DecodeSpan(const Queries<Math>& queries, const Keys& keys, int64_t first)
      : queries_(queries), keys_(keys), first_(first), count_(min_of(kSpan, keys.count - first)) {}

  /// record(h): where head h leaves its sums.
  template <class RecordOf>
  void run(const RecordOf& record) {
    if constexpr (Keys::kScaled) gather_scales();
    for (int64_t j = 0; j < count_; j += kRows) score(j);
    for (int64_t h = 0; h < queries_.heads; ++h) weigh_head(h, record(h));
    for (int64_t j = 0; j < count_; j += kRows) add_values(j, record);
  }

 private:
  static constexpr int64_t kRows = Stream<Math>::kRows, kPerWord = Stream<Math>::kPerWord;
  static constexpr int64_t kAhead = 2;  // heads that are asked for in advance
  using T = typename Keys::Element;

  void score(int64_t j) {
    const T *rows[kRows], *next[kRows];
    for (int64_t i = 0; i < kRows; ++i) rows[i] = keys_.k(first_ + min_of(j + i, count_ - 1));
    for (int64_t i = 0; i < kRows; ++i) next[i] = j + kRows < count_ ? k_row(j + kRows + i) : v_row(i);
    const int64_t lda = queries_.ldq() / kPerWord;
    for (int64_t h = 0; h < queries_.heads; ++h) {
      prefetch(rows, next, h + kAhead, keys_.k_head);
      Stream<Math>::scores(s(h) + j, queries_.words(h), lda, queries_.rows, rows, h * keys_.k_head, queries_.dim);
    }
  }

  /// The scales of the span's rows for all heads, [head, kSpan]; zeros beyond the last row.
  void gather_scales() {
    for (int64_t j = 0; j < round_up(count_, kWidth); ++j) {
      const float *k = nullptr, *v = nullptr;
      if (j < count_) k = keys_.k_scales(first_ + j), v = keys_.v_scales(first_ + j);
      for (int64_t h = 0; h < queries_.heads; ++h) {
        k_scales_[h * kSpan + j] = k == nullptr ? 0.0f : k[h];
        v_scales_[h * kSpan + j] = v == nullptr ? 0.0f : v[h];
      }
    }
  }

  LYNX_INLINE const T* k_row(int64_t j) const { return keys_.k(min_of(first_ + j, keys_.count - 1)); }
  LYNX_INLINE const T* v_row(int64_t j) const { return keys_.v(min_of(first_ + j, keys_.count - 1)); }

  /// Asks for a head of these rows, or of the next ones when these have no more: the hardware follows 8 rows at once, but
  /// not far enough ahead.
  LYNX_INLINE void prefetch(const T* const (&rows)[kRows], const T* const (&next)[kRows], int64_t h,
                            int64_t head) const {
    const bool here = h < queries_.heads;
    const int64_t offset = (here ? h : min_of(h - queries_.heads, queries_.heads - 1)) * head;
    for (int64_t i = 0; i < kRows; ++i) prefetch_row((here ? rows[i] : next[i]) + offset, queries_.dim);
  }

  void weigh_head(int64_t h, const Record& sums) {
    const int64_t columns = round_up(count_, kWidth);
    const uint8_t* flags = queries_.kv_mask == nullptr ? nullptr : queries_.kv_mask + first_;
    for (int64_t r = 0; r < queries_.rows; ++r) {
      float* const row = s(h) + r * kSpan;
      if constexpr (Keys::kScaled) {
        for (int64_t j = 0; j < columns; j += kWidth)
          store(row + j, mul(load(row + j), load(k_scales_ + h * kSpan + j)));
      }
      const int64_t visible = max_of(0, min_of(queries_.key_limit[r] - first_, count_));
      sums.max(r) = mask_scores(row, columns, {visible, count_, flags}, queries_.softmax_scale);
      sums.sum(r) = weigh(row, columns, sums.max(r), [&](int64_t j, Vec weights) __attribute__((always_inline)) {
        if constexpr (Keys::kScaled) weights = mul(weights, load(v_scales_ + h * kSpan + j));
        Math::put(p(h) + r * kSpan + j, weights);
      });
    }
  }

  template <class RecordOf>
  void add_values(int64_t j, const RecordOf& record) {
    const T* rows[kRows];
    for (int64_t i = 0; i < kRows; ++i) rows[i] = keys_.v(first_ + min_of(j + i, count_ - 1));
    const T* next[kRows];
    for (int64_t i = 0; i < kRows; ++i) next[i] = j + kRows < count_ ? v_row(j + kRows + i) : k_row(kSpan + i);
    for (int64_t h = 0; h < queries_.heads; ++h) {
      prefetch(rows, next, h + kAhead, keys_.v_head);
      const Record sums = record(h);
      Stream<Math>::values(sums.o(0), chunk_ + h * queries_.rows * sums.ld, sums.ld,
                           reinterpret_cast<const float*>(p(h) + j), queries_.rows, rows, h * keys_.v_head,
                           {j, min_of(kRows, count_ - j), count_}, queries_.dim);
    }
  }

  LYNX_INLINE float* s(int64_t h) { return s_ + h * queries_.rows * kSpan; }
  LYNX_INLINE typename Math::Operand* p(int64_t h) { return p_ + h * queries_.rows * kSpan; }

  const Queries<Math>& queries_;
  const Keys& keys_;
  const int64_t first_, count_;
  alignas(64) float s_[kTaskRows * kSpan];
  alignas(64) typename Math::Operand p_[kTaskRows * kSpan];
  alignas(64) float k_scales_[Keys::kScaled ? kTaskRows * kSpan : 1];
  alignas(64) float v_scales_[Keys::kScaled ? kTaskRows * kSpan : 1];
  alignas(64) float chunk_[kTaskRows * record_row(kMaxHeadDim)];
};

template <class T>
struct DenseKeys {
  using Element = T;
  static constexpr bool kScaled = false;
  Rows<const T> k_rows, v_rows;
  int64_t k_head, v_head, count;
  LYNX_INLINE const T* k(int64_t j) const { return k_rows[j]; }
  LYNX_INLINE const T* v(int64_t j) const { return v_rows[j]; }
};

/// Task t: span s of the heads of group g of sequence b, where t = (b * num_spans + s) * num_groups + g.
template <class Math, class T>
void decode_span(const ForwardParams& params, int64_t task) {
  const Problem& problem = params.problem;
  const Split& split = params.split;
  const int64_t group = task % split.num_groups, span = task / split.num_groups % split.num_spans;
  const int64_t first_head = group * split.heads;
  const Place place{task / split.num_groups / split.num_spans, first_head, 0};
  const Mask mask(problem, place.seq);
  if (span * kSpan >= mask.num_keys) return;

  Queries<Math> queries;
  queries.heads = min_of(split.heads, problem.num_heads - first_head);
  queries.rows = mask.num_queries, queries.dim = problem.head_dim;
  queries.softmax_scale = problem.softmax_scale, queries.kv_mask = mask.kv_mask;
  for (int64_t i = 0; i < mask.num_queries; ++i) queries.key_limit[i] = mask.key_limit(i);
  for (int64_t h = 0; h < queries.heads; ++h) {
    queries.pack(h, query_rows<T>(params.q, mask, Place{place.seq, first_head + h, 0}));
  }
  const DenseKeys<T> keys{key_rows<T>(params.k, mask, place), key_rows<T>(params.v, mask, place), params.k.stride.head,
                          params.v.stride.head, mask.num_keys};
  const auto record = [&](int64_t h) __attribute__((always_inline)) {
    const int64_t index = (place.seq * problem.num_heads + first_head + h) * split.num_spans + span;
    return Record(split.records, index, problem.max_seqlen_q, problem.head_dim);
  };
  DecodeSpan<Math, DenseKeys<T>>(queries, keys, span * kSpan).run(record);
}

/// Task t: the rows of head t from the records of its spans.
template <class T>
void decode_merge(const ForwardParams& params, int64_t task) {
  const Problem& problem = params.problem;
  const Place place{task / problem.num_heads, task % problem.num_heads, 0};
  const Mask mask(problem, place.seq);
  const Rows<T> o = query_rows<T>(params.o, mask, place);
  const Rows<const T> v = key_rows<T>(params.v, mask, place);
  const RowStats stats(params.stats, mask, place);
  const int64_t rows = problem.max_seqlen_q, num_spans = ceil_div(mask.num_keys, kSpan);
  float* const records = Record(params.split.records, task * params.split.num_spans, rows, problem.head_dim).data;
  for (int64_t i = 0; i < mask.num_queries; ++i) {
    Partial row = num_spans > 0 ? merged_row(records, num_spans, rows, i, problem.head_dim)
                                : Partial{kLowest, 0.0f, Record(records, 0, rows, problem.head_dim).o(i)};
    finish_row(o[i], row, v, mask.num_keys, problem.head_dim);
    stats.max(i) = row.max, stats.sum(i) = row.sum;
  }
}

}  // namespace lynx::LYNX_ISA::prefix_attention
