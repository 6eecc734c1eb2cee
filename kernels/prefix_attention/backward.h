// Backward in two passes that recompute P = exp(S - m) / l, each writing its own rows: no atomics, one order of sums.
//
//   dP = dO V^T      delta_i = sum_j P_ij dP_ij = dO_i . O_i      dS = P * (dP - delta) * scale
//   backward_q,  a block of queries over the keys:      dQ = dS K
//   backward_kv, a block of keys over the queries:      dV = P^T dO,   dK = dS^T Q   (S^T = K Q^T, so rows are keys)
//
// A hidden score is a constant, so is one that the floor replaced: both are `lowest`, and their dS is 0. A row of nothing
// else has m = lowest and l = num_keys: its P is 1 / num_keys everywhere.
//
// A row of few keys often has one P near 1, whose dP - delta nearly cancels. Where one block holds all keys of a row, delta
// is therefore summed from P dP, whose rounding errors cancel too; for the other rows it is dO . O, which needs no pass
// (and is NaN where a value that the row does not see is NaN, as 0 * NaN makes it in the reference).
#pragma once
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

template <class Gemm>
struct BackwardScratch {
  alignas(64) typename Gemm::Operand row_a[Gemm::kRowBlock * kMaxHeadDim];  // Q, or K
  alignas(64) typename Gemm::Operand row_b[Gemm::kRowBlock * kMaxHeadDim];  // dO, or V
  alignas(64) typename Gemm::Operand column[kColumns * kMaxHeadDim];        // a block of the other side
  alignas(64) typename Gemm::Operand operand[Gemm::kRowBlock * kColumns];   // P or dS as a factor
  alignas(64) float p[Gemm::kRowBlock * kColumns];                          // S, then P
  alignas(64) float ds[Gemm::kRowBlock * kColumns];                         // dP, then dS
  alignas(64) float sum_a[Gemm::kRowBlock * kMaxHeadDim];                   // dQ, or dK
  alignas(64) float sum_b[Gemm::kRowBlock * kMaxHeadDim];                   // dV
};

/// dO . O of row i. Where dO is infinite it is NaN: the sum over keys that it stands for has infinities of both signs.
template <class T>
LYNX_INLINE float row_delta(Rows<const T> d_o, Rows<const T> o, int64_t i, int64_t dim) {
  Vec sum = zero(), poison = zero();
  for_vectors(dim, [&](int64_t d, int64_t n) {
    const Vec gradient = load_some(d_o[i] + d, n);
    sum = fma(gradient, load_some(o[i] + d, n), sum);
    poison = fma(gradient, zero(), poison);
  });
  return hsum(add(sum, poison));
}

template <class T>
LYNX_INLINE void store_rows(Rows<T> out, int64_t first, int64_t rows, const float* sum, int64_t ld, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r) {
    for_vectors(dim, [&](int64_t d, int64_t n) { store_some(out[first + r] + d, load(sum + r * ld + d), n); });
  }
}

/// What both passes read, and their two products of a block of rows with a block of columns.
template <class Gemm, class T>
class BackwardBlock {
 public:
  BackwardBlock(const BackwardParams& params, const Mask& mask, const Place& place)
      : mask_(mask),
        q_(query_rows<T>(params.q, mask, place)),
        k_(key_rows<T>(params.k, mask, place)),
        v_(key_rows<T>(params.v, mask, place)),
        o_(query_rows<T>(params.o, mask, place)),
        d_o_(query_rows<T>(params.d_o, mask, place)),
        stats_(params.stats, mask, place),
        scale_(params.problem.softmax_scale),
        dim_(params.problem.head_dim),
        padded_dim_(round_up(dim_, Gemm::kDimMultiple)) {}

 protected:
  /// out [rows, kColumns] = rows_operand times the transpose of columns [first, first + count) of `other`.
  void product_with_columns(float* out, const typename Gemm::Operand* rows_operand, int64_t rows, Rows<const T> other,
                            int64_t first, int64_t count) {
    Gemm::pack_bt(scratch_.column, Rows<const T>{other[first], other.ld}, count, dim_);
    const int64_t columns = round_up(count, Gemm::kColumnMultiple);
    Gemm::multiply(out, kColumns, rows_operand, padded_dim_, scratch_.column, kColumns, rows, columns, dim_, false);
  }
  /// sum [rows, dim] += factor [rows, count] times rows [first, first + count) of `other`.
  void add_product(float* sum, const float* factor, int64_t rows, Rows<const T> other, int64_t first, int64_t count) {
    Gemm::pack_b(scratch_.column, padded_dim_, Rows<const T>{other[first], other.ld}, count, dim_);
    const auto* operand = Gemm::scores_as_a(scratch_.operand, factor, rows);
    Gemm::multiply(sum, padded_dim_, operand, kColumns, scratch_.column, padded_dim_, rows, padded_dim_, count, true);
  }

  const Mask& mask_;
  const Rows<const T> q_, k_, v_, o_, d_o_;
  const RowStats stats_;
  const float scale_;
  const int64_t dim_, padded_dim_;
  BackwardScratch<Gemm> scratch_;
};

/// dQ of the queries [first_row, first_row + Gemm::kRowBlock).
template <class Gemm, class T>
class BackwardQueries : BackwardBlock<Gemm, T> {
 public:
  BackwardQueries(const BackwardParams& params, const Mask& mask, const Place& place, int64_t first_row)
      : BackwardBlock<Gemm, T>(params, mask, place),
        dq_(query_rows<T>(params.dq, mask, place)),
        first_(first_row),
        rows_(min_of(Gemm::kRowBlock, mask.num_queries - first_row)) {}

  void run() {
    [[maybe_unused]] typename Gemm::Scope scope;
    auto& own = this->scratch_;
    Gemm::pack_a(own.row_a, this->padded_dim_, Rows<const T>{this->q_[first_], this->q_.ld}, rows_, this->dim_);
    Gemm::pack_a(own.row_b, this->padded_dim_, Rows<const T>{this->d_o_[first_], this->d_o_.ld}, rows_, this->dim_);
    fill(own.sum_a, own.sum_a + rows_ * this->padded_dim_, 0.0f);
    for (int64_t r = 0; r < rows_; ++r) delta_[r] = row_delta(this->d_o_, this->o_, first_ + r, this->dim_);
    const int64_t limit = visited_keys();
    for (int64_t j = 0; j < limit; j += kColumns) visit(KeyBlock(this->mask_, j));
    store_rows(dq_, first_, rows_, own.sum_a, this->padded_dim_, this->dim_);
  }

 private:
  int64_t visited_keys() const {
    const int64_t limit = this->mask_.key_limit(first_ + rows_ - 1);
    return has_nonfinite(this->k_, limit, this->mask_.num_keys, this->dim_) ? this->mask_.num_keys : limit;
  }

  void visit(const KeyBlock& keys) {
    auto& own = this->scratch_;
    this->product_with_columns(own.p, own.row_a, rows_, this->k_, keys.first, keys.count);
    this->product_with_columns(own.ds, own.row_b, rows_, this->v_, keys.first, keys.count);
    for (int64_t r = 0; r < rows_; ++r) score_gradient(own.p + r * kColumns, own.ds + r * kColumns, r, keys);
    this->add_product(own.sum_a, own.ds, rows_, this->k_, keys.first, keys.count);
  }

  void score_gradient(float* s, float* ds, int64_t r, const KeyBlock& keys) const {
    const int64_t query = first_ + r;
    scale_scores(s, this->scale_);
    keys.fill_hidden(s, this->mask_, query, kLowest);
    fill(s + keys.count, s + kColumns, kLowest);
    fill(ds + keys.count, ds + kColumns, 0.0f);
    const Vec row_max = set1(this->stats_.max(query)), inverse_sum = set1(1.0f / this->stats_.sum(query));
    float p[kColumns];
    Vec sum = zero();
    for (int64_t j = 0; j < kColumns; j += kWidth) {
      const Vec probability = mul(vexp(sub(load(s + j), row_max)), inverse_sum);
      store(p + j, probability);
      sum = fma(probability, load(ds + j), sum);
    }
    const bool holds_all_keys = keys.first == 0 && this->mask_.key_limit(query) <= kColumns;
    const Vec delta = set1(holds_all_keys && !is_nan(delta_[r]) ? hsum(sum) : delta_[r]);
    for (int64_t j = 0; j < kColumns; j += kWidth) {
      const Vec gradient = mul(mul(load(p + j), sub(load(ds + j), delta)), set1(this->scale_));
      store(ds + j, zero_where_equal(load(s + j), set1(kLowest), gradient));
    }
  }

  const Rows<T> dq_;
  const int64_t first_, rows_;
  float delta_[Gemm::kRowBlock];
};

/// Up to kColumns neighbouring queries with what their columns of P need; lanes beyond the last query have P = 0.
struct QueryBlock {
  int64_t first, count;
  alignas(64) float row_max[kColumns] = {};
  alignas(64) float inverse_sum[kColumns] = {};
  alignas(64) float delta[kColumns] = {};
};

/// dK and dV of the keys [first_row, first_row + Gemm::kRowBlock).
template <class Gemm, class T>
class BackwardKeys : BackwardBlock<Gemm, T> {
 public:
  BackwardKeys(const BackwardParams& params, const Mask& mask, const Place& place, int64_t first_row)
      : BackwardBlock<Gemm, T>(params, mask, place),
        dk_(key_rows<T>(params.dk, mask, place)),
        dv_(key_rows<T>(params.dv, mask, place)),
        first_(first_row),
        rows_(min_of(Gemm::kRowBlock, mask.num_keys - first_row)) {}

  void run() {
    [[maybe_unused]] typename Gemm::Scope scope;
    auto& own = this->scratch_;
    Gemm::pack_a(own.row_a, this->padded_dim_, Rows<const T>{this->k_[first_], this->k_.ld}, rows_, this->dim_);
    Gemm::pack_a(own.row_b, this->padded_dim_, Rows<const T>{this->v_[first_], this->v_.ld}, rows_, this->dim_);
    fill(own.sum_a, own.sum_a + rows_ * this->padded_dim_, 0.0f);
    fill(own.sum_b, own.sum_b + rows_ * this->padded_dim_, 0.0f);
    for (int64_t i = first_visited_query(); i < this->mask_.num_queries; i += kColumns) {
      QueryBlock queries = query_block(i);
      visit(queries);
    }
    store_rows(dk_, first_, rows_, own.sum_a, this->padded_dim_, this->dim_);
    store_rows(dv_, first_, rows_, own.sum_b, this->padded_dim_, this->dim_);
  }

 private:
  /// Queries that see none of these keys are left out, unless one attends uniformly or spreads a NaN.
  int64_t first_visited_query() const {
    const int64_t start = this->mask_.query_start(first_);
    bool plain = !has_nonfinite(this->q_, 0, start, this->dim_) && !has_nonfinite(this->d_o_, 0, start, this->dim_);
    for (int64_t i = 0; i < start; ++i) plain &= this->stats_.max(i) > kLowest && this->stats_.sum(i) > 0.0f;
    return plain ? start : 0;
  }

  QueryBlock query_block(int64_t first) const {
    QueryBlock block{first, min_of(kColumns, this->mask_.num_queries - first)};
    for (int64_t i = 0; i < block.count; ++i) {
      block.row_max[i] = this->stats_.max(first + i);
      block.inverse_sum[i] = 1.0f / this->stats_.sum(first + i);
      block.delta[i] = row_delta(this->d_o_, this->o_, first + i, this->dim_);
    }
    return block;
  }

  void visit(QueryBlock& queries) {
    auto& own = this->scratch_;
    this->product_with_columns(own.p, own.row_a, rows_, this->q_, queries.first, queries.count);
    this->product_with_columns(own.ds, own.row_b, rows_, this->d_o_, queries.first, queries.count);
    for (int64_t r = 0; r < rows_; ++r) mask_scores(own.p + r * kColumns, first_ + r, queries);
    if (first_ == 0 && this->mask_.key_limit(queries.first) <= rows_) sum_delta(queries);
    for (int64_t r = 0; r < rows_; ++r) score_gradient(own.p + r * kColumns, own.ds + r * kColumns, queries);
    this->add_product(own.sum_b, own.p, rows_, this->d_o_, queries.first, queries.count);
    this->add_product(own.sum_a, own.ds, rows_, this->q_, queries.first, queries.count);
  }

  void mask_scores(float* s, int64_t key, const QueryBlock& queries) const {
    const int64_t start = this->mask_.is_hole(key) ? queries.count : this->mask_.query_start(key) - queries.first;
    scale_scores(s, this->scale_);
    fill(s, s + min_of(start, queries.count), kLowest);
    fill(s + queries.count, s + kColumns, kLowest);
  }

  static LYNX_INLINE Vec probability(Vec s, int64_t i, const QueryBlock& queries) {
    return mul(vexp(sub(s, load(queries.row_max + i))), load(queries.inverse_sum + i));
  }

  /// delta of those queries whose keys are all in this block.
  void sum_delta(QueryBlock& queries) const {
    float sums[kColumns];
    for (int64_t i = 0; i < kColumns; i += kWidth) {
      Vec sum = zero();
      for (int64_t r = 0; r < rows_; ++r) {
        const int64_t at = r * kColumns + i;
        sum = fma(probability(load(this->scratch_.p + at), i, queries), load(this->scratch_.ds + at), sum);
      }
      store(sums + i, sum);
    }
    for (int64_t i = 0; i < queries.count; ++i) {
      const bool holds_all_keys = this->mask_.key_limit(queries.first + i) <= rows_;
      if (holds_all_keys && !is_nan(queries.delta[i])) queries.delta[i] = sums[i];
    }
  }

  /// s becomes P, dP becomes dS.
  void score_gradient(float* s, float* ds, const QueryBlock& queries) const {
    for (int64_t i = 0; i < kColumns; i += kWidth) {
      const Vec p = probability(load(s + i), i, queries);
      const Vec gradient = mul(mul(p, sub(load(ds + i), load(queries.delta + i))), set1(this->scale_));
      store(ds + i, zero_where_equal(load(s + i), set1(kLowest), gradient));
      store(s + i, p);
    }
  }

  const Rows<T> dk_, dv_;
  const int64_t first_, rows_;
};

template <class Gemm, class T>
void backward_q(const BackwardParams& params, int64_t task) {
  const Place place(params.problem, task, params.problem.max_seqlen_q, Gemm::kRowBlock);
  const Mask mask(params.problem, place.seq);
  const int64_t first_row = place.block * Gemm::kRowBlock;
  if (first_row < mask.num_queries) BackwardQueries<Gemm, T>(params, mask, place, first_row).run();
}

template <class Gemm, class T>
void backward_kv(const BackwardParams& params, int64_t task) {
  const Place place(params.problem, task, params.problem.max_seqlen_k, Gemm::kRowBlock);
  const Mask mask(params.problem, place.seq);
  const int64_t first_row = place.block * Gemm::kRowBlock;
  if (first_row < mask.num_keys) BackwardKeys<Gemm, T>(params, mask, place, first_row).run();
}

}  // namespace lynx::LYNX_ISA::prefix_attention
