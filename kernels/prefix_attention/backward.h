// Backward: one pass over blocks of keys and of queries of a head, five products for each pair of blocks, P recomputed.
//
//   S = Q K^T,  P = exp(S - m) / l        dP = dO V^T      delta_i = sum_j P_ij dP_ij = dO_i . O_i
//   dS = P * (dP - delta) * scale         dQ += dS K       dV^T += dO^T P      dK^T += Q^T dS
//
// dV and dK are summed transposed: P and dS are then the right factor, whose rows lie as the first two products left them.
// A task is a head, so every sum has one order and needs no atomics; dQ is summed in float32 in the workspace.
//
// A hidden score is a constant, so is one that the floor replaced: both are `lowest`, and their dS is 0. A row of nothing
// else has m = lowest and l = num_keys: its P is 1 / num_keys everywhere.
//
// A row of few keys often has one P near 1, whose dP - delta nearly cancels. Where one block holds all keys of a row, delta
// is therefore summed from P dP, whose rounding errors cancel too; for the other rows it is dO . O, which needs no pass
// (and is NaN where a value that the row does not see is NaN, as 0 * NaN makes it in the reference).
#pragma once
#include "cpu/vec_transpose.h"
#include "softmax.h"

namespace lynx::LYNX_ISA::prefix_attention {

constexpr int64_t kQueryRows = 96;  // queries and keys of a pair of blocks: all of its operands stay in 1 MiB of L2
constexpr int64_t kKeyRows = 128;

template <class Gemm>
struct BackwardScratch {
  using Operand = typename Gemm::Operand;
  alignas(64) Operand k_bt[kKeyRows * kMaxHeadDim];
  alignas(64) Operand v_bt[kKeyRows * kMaxHeadDim];
  alignas(64) Operand k_b[kKeyRows * kMaxHeadDim];
  alignas(64) Operand q_a[kQueryRows * kMaxHeadDim];
  alignas(64) Operand d_o_a[kQueryRows * kMaxHeadDim];
  alignas(64) Operand q_at[kQueryRows * kMaxHeadDim];
  alignas(64) Operand d_o_at[kQueryRows * kMaxHeadDim];
  alignas(64) Operand p_b[kQueryRows * kKeyRows];
  alignas(64) Operand ds_b[kQueryRows * kKeyRows];
  alignas(64) Operand ds_a[Gemm::kGroupRows * kKeyRows];
  alignas(64) float p[kQueryRows * kKeyRows];   // S, then P
  alignas(64) float ds[kQueryRows * kKeyRows];  // dP, then dS
  alignas(64) float dk_t[kMaxHeadDim * kKeyRows];
  alignas(64) float dv_t[kMaxHeadDim * kKeyRows];
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

/// out[first + j][d] = sums[d][j] for j < count: rows of kKeyRows numbers.
template <class T>
void store_transposed(Rows<T> out, int64_t first, int64_t count, const float* sums, int64_t dim) {
  for (int64_t j = 0; j < count; j += kWidth) {
    for (int64_t d = 0; d < dim; d += kWidth) {
      Vec square[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) square[i] = load(sums + min_of(d + i, dim - 1) * kKeyRows + j);
      transpose_vectors(square);
      for (int64_t i = 0; i < min_of(kWidth, count - j); ++i) store_some(out[first + j + i] + d, square[i], dim - d);
    }
  }
}

/// All gradients of one head of one sequence.
template <class Gemm, class T>
class BackwardHead {
 public:
  BackwardHead(const BackwardParams& params, const Mask& mask, const Place& place, float* workspace)
      : mask_(mask),
        q_(query_rows<T>(params.q, mask, place)),
        k_(key_rows<T>(params.k, mask, place)),
        v_(key_rows<T>(params.v, mask, place)),
        o_(query_rows<T>(params.o, mask, place)),
        d_o_(query_rows<T>(params.d_o, mask, place)),
        dq_(query_rows<T>(params.dq, mask, place)),
        dk_(key_rows<T>(params.dk, mask, place)),
        dv_(key_rows<T>(params.dv, mask, place)),
        stats_(params.stats, mask, place),
        scale_(params.problem.softmax_scale),
        dim_(params.problem.head_dim),
        ldq_(round_up(dim_, Gemm::kDepthMultiple)),
        ldo_(round_up(dim_, Gemm::kColumnMultiple)),
        delta_(workspace),
        dq_sums_(workspace + round_up(mask.num_queries, 16)) {}

  void run() {
    [[maybe_unused]] typename Gemm::Scope scope;
    for (int64_t i = 0; i < mask_.num_queries; ++i) delta_[i] = row_delta(d_o_, o_, i, dim_);
    all_plain_ = is_plain();
    for (int64_t j = 0; j < mask_.num_keys; j += kKeyRows) visit_keys(j, min_of(kKeyRows, mask_.num_keys - j));
    for (int64_t i = 0; i < mask_.num_queries; ++i) {
      for_vectors(dim_, [&](int64_t d, int64_t n) {
        store_some(dq_[i] + d, mask_.num_keys == 0 ? zero() : load(dq_sums_ + i * ldo_ + d), n);
      });
    }
  }

 private:
  /// Whether pairs of a query and a key that it does not see may be left out: unless a row attends uniformly, or a NaN or
  /// an infinity would meet their zeros, as in the reference.
  bool is_plain() const {
    bool plain = !has_nonfinite(q_, 0, mask_.num_queries, dim_) && !has_nonfinite(d_o_, 0, mask_.num_queries, dim_) &&
                 !has_nonfinite(k_, 0, mask_.num_keys, dim_) && !has_nonfinite(v_, 0, mask_.num_keys, dim_);
    for (int64_t i = 0; i < mask_.num_queries; ++i) plain &= stats_.max(i) > kLowest && stats_.sum(i) > 0.0f;
    return plain;
  }

  void visit_keys(int64_t first, int64_t count) {
    const Rows<const T> k{k_[first], k_.ld};
    Gemm::pack_bt(own_.k_bt, k, count, dim_);
    Gemm::pack_bt(own_.v_bt, Rows<const T>{v_[first], v_.ld}, count, dim_);
    Gemm::pack_b(own_.k_b, k, count, dim_);
    const int64_t start = all_plain_ ? mask_.query_start(first) / kQueryRows * kQueryRows : 0;
    for (int64_t i = start; i < mask_.num_queries; i += kQueryRows) visit(first, count, i, i > start);
    if (start >= mask_.num_queries) {
      fill(own_.dk_t, own_.dk_t + dim_ * kKeyRows, 0.0f);
      fill(own_.dv_t, own_.dv_t + dim_ * kKeyRows, 0.0f);
    }
    store_transposed(dk_, first, count, own_.dk_t, dim_);
    store_transposed(dv_, first, count, own_.dv_t, dim_);
  }

  /// The queries [i, i + kQueryRows) against a packed block of keys.
  void visit(int64_t first_key, int64_t count, int64_t i, bool accumulate) {
    const int64_t rows = min_of(kQueryRows, mask_.num_queries - i), ldt = round_up(rows, Gemm::kDepthMultiple);
    const Rows<const T> q{q_[i], q_.ld}, d_o{d_o_[i], d_o_.ld};
    Gemm::pack_a(own_.q_a, ldq_, q, rows, dim_);
    Gemm::pack_a(own_.d_o_a, ldq_, d_o, rows, dim_);
    Gemm::pack_at(own_.q_at, ldt, q, rows, dim_);
    Gemm::pack_at(own_.d_o_at, ldt, d_o, rows, dim_);
    for (int64_t r = 0; r < rows; r += Gemm::kGroupRows) {
      visit_group(first_key, count, i, r, min_of(Gemm::kGroupRows, rows - r));
    }
    Gemm::pack_b_floats(own_.p_b, own_.p, kKeyRows, rows, count);
    Gemm::pack_b_floats(own_.ds_b, own_.ds, kKeyRows, rows, count);
    Gemm::multiply_b(own_.dv_t, kKeyRows, own_.d_o_at, ldt, own_.p_b, rows, dim_, count, rows, accumulate);
    Gemm::multiply_b(own_.dk_t, kKeyRows, own_.q_at, ldt, own_.ds_b, rows, dim_, count, rows, accumulate);
  }

  /// P and dS of the rows [r, r + rows) of the block of queries that starts at i, and what they add to dQ.
  void visit_group(int64_t first_key, int64_t count, int64_t i, int64_t r, int64_t rows) {
    float *const p = own_.p + r * kKeyRows, *const ds = own_.ds + r * kKeyRows;
    const int64_t limit = mask_.key_limit(i + r + rows - 1) - first_key;
    const int64_t present = all_plain_ ? max_of(0, min_of(count, limit)) : count;
    const int64_t columns = round_up(present, Gemm::kColumnMultiple), all_columns = round_up(count, kWidth);
    for (int64_t row = 0; row < rows; ++row) {  // what nobody sees adds zeros to dK and dV
      fill(p + row * kKeyRows + columns, p + row * kKeyRows + all_columns, 0.0f);
      fill(ds + row * kKeyRows + columns, ds + row * kKeyRows + all_columns, 0.0f);
    }
    if (present == 0) return;
    Gemm::multiply_bt(p, kKeyRows, own_.q_a + r * ldq_, ldq_, own_.k_bt, rows, columns, dim_);
    Gemm::multiply_bt(ds, kKeyRows, own_.d_o_a + r * ldq_, ldq_, own_.v_bt, rows, columns, dim_);
    for (int64_t row = 0; row < rows; ++row) score_gradient(first_key, columns, i + r + row, row, p, ds);
    Gemm::multiply_b(dq_sums_ + (i + r) * ldo_, ldo_, own_.ds_a, kKeyRows, own_.k_b, count, rows, dim_, present,
                     first_key > 0);
  }

  /// Row `row` of a group, query i: scores become P, dP becomes dS.
  void score_gradient(int64_t first_key, int64_t columns, int64_t i, int64_t row, float* group_p, float* group_ds) {
    float *const p = group_p + row * kKeyRows, *const ds = group_ds + row * kKeyRows;
    const int64_t visible = max_of(0, min_of(mask_.key_limit(i) - first_key, columns));
    const Seen seen{visible, columns, mask_.flags(first_key)};
    mask_scores(p, columns, seen, scale_);
    const Vec row_max = set1(stats_.max(i)), inverse_sum = set1(1.0f / stats_.sum(i));
    const auto probability = [&](int64_t j) __attribute__((always_inline)) {
      return mul(exp_of_negative(sub(load(p + j), row_max)), inverse_sum);
    };
    float row_sum = delta_[i];
    const bool holds_all_keys = first_key == 0 && mask_.key_limit(i) <= kKeyRows;
    if (holds_all_keys && !is_nan(row_sum)) {
      Vec sum = zero();
      for (int64_t j = 0; j < columns; j += kWidth) sum = fma(probability(j), load(ds + j), sum);
      row_sum = hsum(sum);
    }
    const Vec delta = set1(row_sum), scale = set1(scale_), lowest = set1(kLowest);
    for (int64_t j = 0; j < columns; j += kWidth) {
      const Vec s = load(p + j), weight = probability(j);
      const Vec gradient = zero_where_equal(s, lowest, mul(mul(weight, sub(load(ds + j), delta)), scale));
      store(p + j, weight);
      store(ds + j, gradient);
      Gemm::put_a(own_.ds_a, kKeyRows, row, j, gradient);
    }
  }

  const Mask& mask_;
  const Rows<const T> q_, k_, v_, o_, d_o_;
  const Rows<T> dq_, dk_, dv_;
  const RowStats stats_;
  const float scale_;
  const int64_t dim_, ldq_, ldo_;
  float *const delta_, *const dq_sums_;
  bool all_plain_ = false;
  BackwardScratch<Gemm> own_;
};

/// Task t: head t % num_heads of sequence t / num_heads.
template <class Gemm, class T>
void backward(const BackwardParams& params, int64_t task, float* workspace) {
  const Place place(task / params.problem.num_heads, task % params.problem.num_heads, 0);
  const Mask mask(params.problem, place.seq);
  BackwardHead<Gemm, T>(params, mask, place, workspace).run();
}

}  // namespace lynx::LYNX_ISA::prefix_attention
