// Forward: one pass over the keys with a running maximum and sum (online softmax), so no row of scores is ever stored.
//
//   for each block of keys:   S = Q K^T * scale, hidden = lowest;   m' = max(m, rowmax S);   P = exp(S - m')
//                             l = l * exp(m - m') + rowsum P;       O = O * exp(m - m') + P V
//   o = O / l; m and l are kept for backward
//
// Products come from `Gemm`: float32 vectors (vector_gemm.h) or AMX tiles (tile_gemm.h).
#pragma once
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

template <class Gemm>
struct ForwardScratch {
  alignas(64) typename Gemm::Operand q[Gemm::kRowBlock * kMaxHeadDim];
  alignas(64) typename Gemm::Operand k_or_v[kColumns * kMaxHeadDim];
  alignas(64) typename Gemm::Operand p[Gemm::kRowBlock * kColumns];
  alignas(64) float s[Gemm::kRowBlock * kColumns];
  alignas(64) float o[Gemm::kRowBlock * kMaxHeadDim];
  float row_max[Gemm::kRowBlock];
  float row_sum[Gemm::kRowBlock];
};

/// s becomes exp(s - m'); updates m and l; returns exp(m - m'), the factor for what was summed before.
LYNX_INLINE float online_softmax(float* s, float& row_max, float& row_sum) {
  Vec max_lanes = set1(row_max);
  for (int64_t j = 0; j < kColumns; j += kWidth) max_lanes = vmax(load(s + j), max_lanes);
  const float new_max = hmax(max_lanes);
  Vec sum = zero();
  for (int64_t j = 0; j < kColumns; j += kWidth) {
    const Vec p = vexp(sub(load(s + j), set1(new_max)));
    store(s + j, p);
    sum = add(sum, p);
  }
  const float factor = new_max == row_max ? 1.0f : hmax(vexp(set1(row_max - new_max)));
  row_max = new_max;
  row_sum = row_sum * factor + hsum(sum);
  return factor;
}

LYNX_INLINE void scale_row(float* row, int64_t dim, float factor) {
  for (int64_t d = 0; d < dim; d += kWidth) store(row + d, mul(load(row + d), set1(factor)));
}

/// The sum of all rows of v: the numerator of a row that attends uniformly.
template <class T>
void sum_rows(float* sum, Rows<const T> v, int64_t num_rows, int64_t dim) {
  for_vectors(dim, [&](int64_t d, int64_t n) {
    Vec lanes = zero();
    for (int64_t j = 0; j < num_rows; ++j) lanes = add(lanes, load_some(v[j] + d, n));
    store(sum + d, lanes);
  });
}

/// out = row / divisor in the element type.
template <class T>
LYNX_INLINE void store_quotient(T* out, const float* row, float divisor, int64_t dim) {
  for_vectors(dim, [&](int64_t d, int64_t n) { store_some(out + d, div(load(row + d), set1(divisor)), n); });
}

/// The queries [first_row, first_row + Gemm::kRowBlock) of one head.
template <class Gemm, class T>
class ForwardBlock {
 public:
  ForwardBlock(const ForwardParams& params, const Mask& mask, const Place& place, int64_t first_row)
      : mask_(mask),
        q_(query_rows<T>(params.q, mask, place)),
        k_(key_rows<T>(params.k, mask, place)),
        v_(key_rows<T>(params.v, mask, place)),
        o_(query_rows<T>(params.o, mask, place)),
        stats_(params.stats, mask, place),
        scale_(params.problem.softmax_scale),
        dim_(params.problem.head_dim),
        padded_dim_(round_up(dim_, Gemm::kDimMultiple)),
        first_(first_row),
        rows_(min_of(Gemm::kRowBlock, mask.num_queries - first_row)) {}

  void run() {
    [[maybe_unused]] typename Gemm::Scope scope;
    Gemm::pack_a(scratch_.q, padded_dim_, Rows<const T>{q_[first_], q_.ld}, rows_, dim_);
    for (int64_t r = 0; r < rows_; ++r) {
      scratch_.row_max[r] = kLowest, scratch_.row_sum[r] = 0.0f;
      fill(scratch_.o + r * padded_dim_, scratch_.o + (r + 1) * padded_dim_, 0.0f);
    }
    const int64_t limit = visited_keys();
    for (int64_t j = 0; j < limit; j += kColumns) attend(KeyBlock(mask_, j));
    for (int64_t r = 0; r < rows_; ++r) finish(r);
  }

 private:
  /// Keys that no row sees are left out, unless their values hold a NaN or infinity: 0 * v spreads it, as in the reference.
  int64_t visited_keys() const {
    const int64_t limit = mask_.key_limit(first_ + rows_ - 1);
    return has_nonfinite(v_, limit, mask_.num_keys, dim_) ? mask_.num_keys : limit;
  }

  void attend(const KeyBlock& keys) {
    float* s = scratch_.s;
    const int64_t columns = round_up(keys.count, Gemm::kColumnMultiple);
    Gemm::pack_bt(scratch_.k_or_v, Rows<const T>{k_[keys.first], k_.ld}, keys.count, dim_);
    Gemm::multiply(s, kColumns, scratch_.q, padded_dim_, scratch_.k_or_v, kColumns, rows_, columns, dim_, false);
    for (int64_t r = 0; r < rows_; ++r) {
      float* row = s + r * kColumns;
      scale_scores(row, scale_);
      keys.fill_hidden(row, mask_, first_ + r, kLowest);
      fill(row + keys.count, row + kColumns, -kInfinity);
      const float factor = online_softmax(row, scratch_.row_max[r], scratch_.row_sum[r]);
      if (factor != 1.0f) scale_row(scratch_.o + r * padded_dim_, padded_dim_, factor);
    }
    Gemm::pack_b(scratch_.k_or_v, padded_dim_, Rows<const T>{v_[keys.first], v_.ld}, keys.count, dim_);
    const auto* p = Gemm::scores_as_a(scratch_.p, s, rows_);
    Gemm::multiply(scratch_.o, padded_dim_, p, kColumns, scratch_.k_or_v, padded_dim_, rows_, padded_dim_, keys.count,
                   true);
  }

  void finish(int64_t r) {
    float* row = scratch_.o + r * padded_dim_;
    float& sum = scratch_.row_sum[r];
    const bool saw_no_key = scratch_.row_max[r] == kLowest && !is_nan(sum);
    if (saw_no_key) {
      sum_rows(row, v_, mask_.num_keys, dim_);
      sum = static_cast<float>(mask_.num_keys);
    }
    stats_.max(first_ + r) = scratch_.row_max[r];
    stats_.sum(first_ + r) = sum;
    store_quotient(o_[first_ + r], row, mask_.num_keys == 0 ? 1.0f : sum, dim_);
  }

  const Mask& mask_;
  const Rows<const T> q_, k_, v_;
  const Rows<T> o_;
  const RowStats stats_;
  const float scale_;
  const int64_t dim_, padded_dim_, first_, rows_;
  ForwardScratch<Gemm> scratch_;
};

template <class Gemm, class T>
void forward(const ForwardParams& params, int64_t task) {
  const Place place(params.problem, task, params.problem.max_seqlen_q, Gemm::kRowBlock);
  const Mask mask(params.problem, place.seq);
  const int64_t first_row = place.block * Gemm::kRowBlock;
  if (first_row < mask.num_queries) ForwardBlock<Gemm, T>(params, mask, place, first_row).run();
}

}  // namespace lynx::LYNX_ISA::prefix_attention
