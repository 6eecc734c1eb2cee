// Cross entropy of rows of logits and its gradient; one text for every instruction set.
//
// A row is read from memory once: block by block, the largest number of a block first, then, from L1, the sum of e^(x - m)
// over it, m being the largest number so far. One exponential an element forward, one more for the gradient.
#pragma once
#include "cpu/loops.h"
#include "cpu/pair.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using cross_entropy::BackwardParams;
using cross_entropy::ForwardParams;
using cross_entropy::InPlaceParams;
using cross_entropy::Problem;
using cross_entropy::SoftmaxStats;

constexpr int64_t kBlock = 2048;  // 8 KB of float32: read twice, the second time from L1

LYNX_INLINE float lowest() { return -__builtin_inff(); }
LYNX_INLINE float exp_of(float x) {
  float lanes[kWidth];
  store(lanes, vexp(set1(x)));
  return lanes[0];
}

template <class Element>
LYNX_INLINE Pair load_or_lowest(const Element* x, int64_t n) {
  const Pair row = load_pair(x, n);
  return n < kPair ? first_of<Element>(row, n, set1(lowest())) : row;
}

/// The largest number that is not NaN.
template <class Element>
LYNX_INLINE float largest(const Element* x, int64_t count) {
  Pair one = both(set1(lowest())), other = one;
  int64_t i = 0;
  for (; i + 2 * kPair <= count; i += 2 * kPair) {
    one = both(vmax, load_pair(x + i, kPair), one);
    other = both(vmax, load_pair(x + i + kPair, kPair), other);
  }
  for (; i < count; i += kPair) one = both(vmax, load_or_lowest(x + i, at_most(count - i, kPair)), one);
  return hmax(vmax(vmax(one.a, one.b), vmax(other.a, other.b)));
}

/// What a row's softmax needs: its largest number, and the sum of e^(x - largest). log sum e^x would be one number, but
/// x - lse loses half a unit of lse, as much as 2e-7 of every probability. Where torch's softmax is NaN, because one number
/// is NaN or +inf or all are -inf, what is made of these is NaN too.
template <class Element>
LYNX_INLINE SoftmaxStats softmax_stats(const Element* x, int64_t V) {
  float most = lowest(), sum = 0.0f;
  for (int64_t start = 0; start < V; start += kBlock) {
    const int64_t count = at_most(V - start, kBlock);
    const float before = most, here = largest(x + start, count);
    if (here > most) {
      most = here;
      sum *= exp_of(before - most);
    }
    // -inf - -inf would be NaN; e^-inf is 0 for any other origin
    const Pair origin = both(set1(most == lowest() ? 0.0f : most));
    sum += sum_of(count, [&](int64_t i, int64_t n, Pair total) {
      return both(add, total, both(vexp, both(sub, load_or_lowest(x + start + i, n), origin)));
    });
  }
  return {most == lowest() ? 0.0f : most, sum};
}

template <class Element>
LYNX_INLINE float sum_row(const Element* x, int64_t count) {
  return sum_of(count, [&](int64_t i, int64_t n, Pair total) { return both(add, total, load_pair(x + i, n)); });
}

template <class Element>
LYNX_INLINE float row_loss(const Problem& p, const Element* x, int64_t label, SoftmaxStats row) {
  const float log_sum = __builtin_logf(row.sum);
  const float of_label = log_sum - (to_float(x[label]) - row.most);
  if (p.smoothing == 0.0f) return of_label;
  const float of_all = log_sum - (sum_row(x, p.V) / static_cast<float>(p.V) - row.most);
  return (1.0f - p.smoothing) * of_label + p.smoothing * of_all;
}

/// out may be x.
template <class Element>
LYNX_INLINE void gradient_row(const Problem& p, const Element* x, int64_t label, SoftmaxStats row, float scale,
                              Element* out) {
  const float spread = p.smoothing / static_cast<float>(p.V);
  const float at_label = scale * (exp_of(to_float(x[label]) - row.most) / row.sum - spread - (1.0f - p.smoothing));
  const Pair origin = both(set1(row.most)), factor = both(set1(scale / row.sum)), offset = both(set1(-scale * spread));
  for_pairs(p.V, [&](int64_t i, int64_t n) {
    const Pair exponential = both(vexp, both(sub, load_pair(x + i, n), origin));
    store_pair(out + i, both(fma, factor, exponential, offset), n);
  });
  assign(out[label], at_label);
}

template <class Element>
LYNX_INLINE void zero_row(int64_t V, Element* out) {
  for_pairs(V, [&](int64_t i, int64_t n) { store_pair(out + i, both(zero()), n); });
}

template <class Element>
LYNX_INLINE Element* row_of(const Problem& p, int64_t t) {
  return static_cast<Element*>(p.logits) + t * p.stride;
}

template <class Element>
void forward_as(const ForwardParams& params) {
  const Problem& p = params.problem;
  for_rows(p.T, p.V, [&](int64_t t) {
    params.losses[t] = 0.0f;
    params.stats[t] = {0.0f, 1.0f};
    if (p.labels[t] == p.ignore_index) return;
    const Element* x = row_of<Element>(p, t);
    params.stats[t] = softmax_stats(x, p.V);
    params.losses[t] = row_loss(p, x, p.labels[t], params.stats[t]);
  });
}

template <class Element>
void backward_as(const BackwardParams& params) {
  const Problem& p = params.problem;
  const auto* d_loss = static_cast<const Element*>(params.d_loss);
  for_rows(p.T, p.V, [&](int64_t t) {
    auto* out = static_cast<Element*>(params.d_logits) + t * p.V;
    if (p.labels[t] == p.ignore_index) return zero_row(p.V, out);
    const float scale = params.scale * to_float(d_loss[params.d_loss_each ? t : 0]);
    gradient_row(p, row_of<Element>(p, t), p.labels[t], params.stats[t], scale, out);
  });
}

template <class Element>
void in_place_as(const InPlaceParams& params) {
  const Problem& p = params.problem;
  for_rows(p.T, 2 * p.V, [&](int64_t t) {
    Element* x = row_of<Element>(p, t);
    params.losses[t] = 0.0f;
    if (p.labels[t] == p.ignore_index) {
      if (params.gradient) zero_row(p.V, x);
      return;
    }
    const SoftmaxStats row = softmax_stats(x, p.V);
    params.losses[t] = row_loss(p, x, p.labels[t], row);
    if (params.gradient) gradient_row(p, x, p.labels[t], row, params.scale, x);
  });
}

namespace {

void run_forward(const ForwardParams& p) { p.problem.dtype == DType::f32 ? forward_as<float>(p) : forward_as<bf16>(p); }
void run_backward(const BackwardParams& p) {
  p.problem.dtype == DType::f32 ? backward_as<float>(p) : backward_as<bf16>(p);
}
void run_in_place(const InPlaceParams& p) {
  p.problem.dtype == DType::f32 ? in_place_as<float>(p) : in_place_as<bf16>(p);
}

}  // namespace

extern const cross_entropy::Kernels cross_entropy_kernels;
const cross_entropy::Kernels cross_entropy_kernels{dtype_set(DType::f32, DType::bf16), run_forward, run_backward,
                                                   run_in_place};

}  // namespace lynx::LYNX_ISA
