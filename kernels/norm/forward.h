// RMSNorm and LayerNorm of rows, after an optional residual addition; one text for every instruction set.
//
// A row is read from memory once: the passes after the first find it in L1. Statistics are float32; the deviations are
// summed in a pass of their own, because E[x^2] - mean^2 cancels.
#pragma once
#include "cpu/loops.h"
#include "cpu/pair.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using norm::ForwardParams;

struct RowStatistics {
  float mean, rstd;
};

LYNX_INLINE float reciprocal_root(float mean_square, float eps) { return 1.0f / __builtin_sqrtf(mean_square + eps); }

/// sum = x + residual, rounded; returns the sum of its squares, or of itself where the mean comes first.
template <class Element, bool kCentred>
LYNX_INLINE float add_residual(const Element* x, const Element* residual, int64_t D, Element* sum) {
  return sum_of(D, [&](int64_t i, int64_t n, Pair total) {
    const Pair added = both(add, load_pair(x + i, n), load_pair(residual + i, n));
    store_pair(sum + i, added, n);
    const Pair kept = rounded_as<Element>(added);
    return kCentred ? both(add, kept, total) : both(fma, kept, kept, total);
  });
}

template <class Element>
LYNX_INLINE float row_total(const Element* x, int64_t D) {
  return sum_of(D, [&](int64_t i, int64_t n, Pair total) { return both(add, load_pair(x + i, n), total); });
}

template <class Element>
LYNX_INLINE float row_squares(const Element* x, int64_t D) {
  return sum_of(D, [&](int64_t i, int64_t n, Pair total) {
    const Pair row = load_pair(x + i, n);
    return both(fma, row, row, total);
  });
}

/// The statistics of a row whose `first` sum is known: of its elements for LayerNorm, of their squares for RMSNorm.
template <class Element, bool kCentred>
LYNX_INLINE RowStatistics row_statistics(const Element* x, float first, int64_t D, float eps) {
  const float average = first / static_cast<float>(D);
  if (!kCentred) return {0.0f, reciprocal_root(average, eps)};
  const Pair mean = both(set1(average));
  const float squares = sum_of(D, [&](int64_t i, int64_t n, Pair total) {
    const Pair distance = first_of<Element>(both(sub, load_pair(x + i, n), mean), n);
    return both(fma, distance, distance, total);
  });
  return {average, reciprocal_root(squares / static_cast<float>(D), eps)};
}

/// RMSNorm rounds twice, as the authors' stack: x * rstd to the tensor's type, then the product with the weight.
template <class Element, bool kCentred>
LYNX_INLINE void normalise_row(const Element* x, RowStatistics row, const Element* weight, const Element* bias,
                               int64_t D, Element* y) {
  const Pair mean = both(set1(row.mean)), rstd = both(set1(row.rstd));
  for_pairs(D, [&](int64_t i, int64_t n) {
    const Pair numbers = load_pair(x + i, n), w = load_pair(weight + i, n);
    if (kCentred) {
      const Pair unit = both(mul, both(sub, numbers, mean), rstd);
      store_pair(y + i, both(fma, unit, w, load_pair(bias + i, n)), n);
    } else {
      store_pair(y + i, both(mul, w, rounded_as<Element>(both(mul, numbers, rstd))), n);
    }
  });
}

template <class Element>
LYNX_INLINE const Element* row_of(norm::Rows rows, int64_t t) {
  return static_cast<const Element*>(rows.data) + t * rows.stride;
}

template <class Element, bool kCentred>
void forward_as(const ForwardParams& p) {
  const auto *weight = static_cast<const Element*>(p.weight), *bias = static_cast<const Element*>(p.bias);
  for_rows(p.T, p.D, [&](int64_t t) {
    const Element* x = row_of<Element>(p.x, t);
    float first;
    if (p.residual.data != nullptr) {
      auto* sum = static_cast<Element*>(p.sum) + t * p.D;
      first = add_residual<Element, kCentred>(x, row_of<Element>(p.residual, t), p.D, sum);
      x = sum;
    } else {
      first = kCentred ? row_total(x, p.D) : row_squares(x, p.D);
    }
    const RowStatistics row = row_statistics<Element, kCentred>(x, first, p.D, p.eps);
    normalise_row<Element, kCentred>(x, row, weight, bias, p.D, static_cast<Element*>(p.y) + t * p.D);
  });
}

}  // namespace lynx::LYNX_ISA
