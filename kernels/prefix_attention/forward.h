// Forward: one pass over the keys, a span of them at a time, so no matrix of scores is ever stored.
//
//   for each span of 256 keys:   pack K^T and V
//     for each 6 (32) queries:   S = Q K^T * scale, hidden = lowest;   m = rowmax S;   P = exp(S - m);   l = rowsum P
//                                O = P V, in registers over the whole span;   merged with the spans before
//   o = O / l; m and l are kept for backward
//
// Products come from `Gemm`: panel_gemm.h (vectors) or tile_gemm.h (AMX).
#pragma once
#include "softmax.h"

namespace lynx::LYNX_ISA::prefix_attention {

constexpr int64_t kQueryBlock = 288;  // queries of a task: packing a span costs as much as attending from 5 queries

template <class Gemm>
struct ForwardScratch {
  using Operand = typename Gemm::Operand;
  alignas(64) Operand q[kQueryBlock * kMaxHeadDim];
  alignas(64) Operand k[kSpan * kMaxHeadDim];
  alignas(64) Operand v[kSpan * kMaxHeadDim];
  alignas(64) Operand p[Gemm::kGroupRows * kSpan];
  alignas(64) float s[Gemm::kGroupRows * kSpan];
  alignas(64) float part[Gemm::kGroupRows * kMaxHeadDim];
  alignas(64) float o[kQueryBlock * kMaxHeadDim];
  Partial rows[kQueryBlock];
};

/// The sum of all rows of v: the numerator of a row that attends uniformly.
template <class Source>
void sum_rows(float* sum, const Source& v, int64_t num_rows, int64_t dim) {
  for_vectors(dim, [&](int64_t d, int64_t n) {
    Vec lanes = zero();
    for (int64_t j = 0; j < num_rows; ++j) lanes = add(lanes, load_some(v[j] + d, n));
    store(sum + d, lanes);
  });
}

/// out = numerators / sum; a row that saw no key is the mean of all values. Gives the row's statistics for backward.
template <class T, class Source>
LYNX_INLINE void finish_row(T* out, Partial& row, const Source& v, int64_t num_keys, int64_t dim) {
  const bool saw_no_key = row.max == kLowest && !is_nan(row.sum);
  if (saw_no_key) {
    sum_rows(row.o, v, num_keys, dim);
    row.sum = static_cast<float>(num_keys);
  }
  const Vec divisor = set1(num_keys == 0 ? 1.0f : row.sum);
  for_vectors(dim, [&](int64_t d, int64_t n) { store_some(out + d, div(load(row.o + d), divisor), n); });
}

/// The queries [first_row, first_row + kQueryBlock) of one head.
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
        ldq_(round_up(dim_, Gemm::kDepthMultiple)),
        ldo_(round_up(dim_, Gemm::kColumnMultiple)),
        first_(first_row),
        rows_(min_of(kQueryBlock, mask.num_queries - first_row)) {}

  void run() {
    [[maybe_unused]] typename Gemm::Scope scope;
    Gemm::pack_a(scratch_.q, ldq_, Rows<const T>{q_[first_], q_.ld}, rows_, dim_);
    for (int64_t r = 0; r < rows_; ++r) scratch_.rows[r] = {kLowest, 0.0f, scratch_.o + r * ldo_};
    const int64_t limit = visited_keys();
    for (int64_t j = 0; j < limit; j += kSpan) attend(j, min_of(kSpan, limit - j));
    for (int64_t r = 0; r < rows_; ++r) finish(r);
  }

 private:
  /// Keys that no row sees are left out, unless their values hold a NaN or infinity: 0 * v spreads it, as in the reference.
  int64_t visited_keys() const {
    const int64_t limit = mask_.key_limit(first_ + rows_ - 1);
    return has_nonfinite(v_, limit, mask_.num_keys, dim_) ? mask_.num_keys : limit;
  }

  void attend(int64_t first_key, int64_t count) {
    Gemm::pack_bt(scratch_.k, Rows<const T>{k_[first_key], k_.ld}, count, dim_);
    const bool finite = Gemm::pack_b(scratch_.v, Rows<const T>{v_[first_key], v_.ld}, count, dim_);
    for (int64_t r = 0; r < rows_; r += Gemm::kGroupRows) {
      const int64_t rows = min_of(Gemm::kGroupRows, rows_ - r);
      const int64_t limit = mask_.key_limit(first_ + r + rows - 1) - first_key;
      const int64_t present = finite ? min_of(count, limit) : count;
      if (present > 0) attend_group(r, rows, first_key, present, count);
    }
  }

  /// Rows [r, r + rows) to the first `present` of the `packed` keys of a span.
  void attend_group(int64_t r, int64_t rows, int64_t first_key, int64_t present, int64_t packed) {
    const int64_t columns = round_up(present, Gemm::kColumnMultiple);
    Gemm::multiply_bt(scratch_.s, kSpan, scratch_.q + r * ldq_, ldq_, scratch_.k, rows, columns, dim_);
    Partial parts[Gemm::kGroupRows];
    const uint8_t* flags = mask_.flags(first_key);
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t visible = max_of(0, min_of(mask_.key_limit(first_ + r + i) - first_key, present));
      parts[i].max = mask_scores(scratch_.s + i * kSpan, columns, {visible, present, flags}, scale_);
    }
    // Apart from the loop above, so that no row waits for its own maximum.
    for (int64_t i = 0; i < rows; ++i) {
      const auto put = [&](int64_t j, Vec p)
                           __attribute__((always_inline)) { Gemm::put_a(scratch_.p, kSpan, i, j, p); };
      parts[i].sum = weigh(scratch_.s + i * kSpan, columns, parts[i].max, put);
      parts[i].o = scratch_.part + i * ldo_;
    }
    float* const o = first_key == 0 ? scratch_.rows[r].o : scratch_.part;
    Gemm::multiply_b(o, ldo_, scratch_.p, kSpan, scratch_.v, packed, rows, dim_, present, false);
    for (int64_t i = 0; i < rows; ++i) {
      Partial& row = scratch_.rows[r + i];
      if (first_key == 0) {
        row.max = parts[i].max, row.sum = parts[i].sum;
      } else {
        merge(row, parts[i], dim_);
      }
    }
  }

  void finish(int64_t r) {
    Partial& row = scratch_.rows[r];
    finish_row(o_[first_ + r], row, v_, mask_.num_keys, dim_);
    stats_.max(first_ + r) = row.max;
    stats_.sum(first_ + r) = row.sum;
  }

  const Mask& mask_;
  const Rows<const T> q_, k_, v_;
  const Rows<T> o_;
  const RowStats stats_;
  const float scale_;
  const int64_t dim_, ldq_, ldo_, first_, rows_;
  ForwardScratch<Gemm> scratch_;
};

template <class Gemm, class T>
void forward(const ForwardParams& params, int64_t task) {
  const Place place(params.problem, task, params.problem.max_seqlen_q, kQueryBlock);
  const Mask mask(params.problem, place.seq);
  const int64_t first_row = place.block * kQueryBlock;
  if (first_row < mask.num_queries) ForwardBlock<Gemm, T>(params, mask, place, first_row).run();
}

}  // namespace lynx::LYNX_ISA::prefix_attention
