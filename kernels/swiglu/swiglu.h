// y = silu(gate) * up and its gradients, rounded once; one text for every instruction set.
//
//   s = 1 / (1 + e^-gate)      y = gate s up      d_up = dy gate s      d_gate = dy up s (1 + gate (1 - s))
#pragma once
#include "cpu/loops.h"
#include "cpu/pair.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using swiglu::BackwardParams;
using swiglu::ForwardParams;

constexpr int64_t kStrip = 2048;  // elements of a row a task: decoding one token has 11008 and two threads

/// 1 / (1 + e^-x), as exact as numbers of type T need.
template <class T>
LYNX_INLINE Vec sigmoid(Vec x);
template <>
LYNX_INLINE Vec sigmoid<float>(Vec x) {
  return reciprocal(add(set1(1.0f), vexp(sub(zero(), x))));
}
/// Within 2^-13, a sixteenth of half a bfloat16 unit: 2^t of t = -x log2 e by a polynomial of degree 4, and 14 bits of the
/// reciprocal. Half of the time (Zen 5, 16 gates in L1: 2.5 ns, not 4.7). NaN is lost here; what is multiplied keeps it.
template <>
LYNX_INLINE Vec sigmoid<bf16>(Vec x) {
  const Vec t = within(mul(x, set1(-1.44269504088896341f)), set1(150.0f));
  const Vec n = round_nearest(t), f = sub(t, n);
  Vec power = set1(9.6181291e-3f);
  power = fma(power, f, set1(5.5504109e-2f));
  power = fma(power, f, set1(2.4022651e-1f));
  power = fma(power, f, set1(6.9314718e-1f));
  power = fma(power, f, set1(1.0f));
  return coarse_reciprocal(add(set1(1.0f), scale_by_power_of_two(power, n)));
}

/// body(t, i, count) for every strip of every row, in parallel.
template <class Body>
LYNX_INLINE void for_strips(int64_t T, int64_t N, const Body& body) {
  const int64_t strips = (N + kStrip - 1) / kStrip;
  for_rows(T * strips, at_most(N, kStrip), [&](int64_t task) {
    const int64_t i = task % strips * kStrip;
    body(task / strips, i, at_most(N - i, kStrip));
  });
}

template <class Element>
LYNX_INLINE const Element* at(swiglu::Rows rows, int64_t t, int64_t i) {
  return static_cast<const Element*>(rows.data) + t * rows.stride + i;
}

template <class Element>
void forward_as(const ForwardParams& p) {
  for_strips(p.T, p.N, [&](int64_t t, int64_t start, int64_t count) {
    const Element *gate = at<Element>(p.gate, t, start), *up = at<Element>(p.up, t, start);
    auto* y = static_cast<Element*>(p.y) + t * p.N + start;
    for_pairs(count, [&](int64_t i, int64_t n) {
      const Pair g = load_pair(gate + i, n);
      store_pair(y + i, both(mul, both(mul, g, both(sigmoid<Element>, g)), load_pair(up + i, n)), n);
    });
  });
}

template <class Element>
void backward_as(const BackwardParams& p) {
  const Pair one = both(set1(1.0f));
  for_strips(p.T, p.N, [&](int64_t t, int64_t start, int64_t count) {
    const Element *dy = at<Element>(p.dy, t, start), *gate = at<Element>(p.gate, t, start);
    const Element* up = at<Element>(p.up, t, start);
    auto* d_gate = static_cast<Element*>(p.d_gate) + t * p.N + start;
    auto* d_up = static_cast<Element*>(p.d_up) + t * p.N + start;
    for_pairs(count, [&](int64_t i, int64_t n) {
      const Pair g = load_pair(gate + i, n), d = load_pair(dy + i, n), s = both(sigmoid<Element>, g);
      const Pair slope = both(mul, s, both(fma, g, both(sub, one, s), one));
      store_pair(d_up + i, both(mul, d, both(mul, g, s)), n);
      store_pair(d_gate + i, both(mul, both(mul, d, load_pair(up + i, n)), slope), n);
    });
  });
}

namespace {

void run_forward(const ForwardParams& p) { p.dtype == DType::f32 ? forward_as<float>(p) : forward_as<bf16>(p); }
void run_backward(const BackwardParams& p) { p.dtype == DType::f32 ? backward_as<float>(p) : backward_as<bf16>(p); }

}  // namespace

extern const swiglu::Kernels swiglu_kernels;
const swiglu::Kernels swiglu_kernels{dtype_set(DType::f32, DType::bf16), run_forward, run_backward};

}  // namespace lynx::LYNX_ISA
