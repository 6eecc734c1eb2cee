// The gradients of a norm, one text for every instruction set.
//
//   unit = (x - mean) * rstd         g = dy * weight
//   dx = rstd * (g - mean(g) - unit * mean(g * unit)) + d_sum         the means of x and g are absent from RMSNorm
//   d_weight = sum_t dy * unit       d_bias = sum_t dy
//
// Nothing but x is kept from the forward pass: the statistics cost one more reading of a row that is in L1 anyway.
// Sums over rows are made block by block. The blocks depend on T alone, so a gradient does not change with the threads.
#pragma once
#include "core/workspace.h"
#include "forward.h"

namespace lynx::LYNX_ISA {

using norm::BackwardParams;

/// What a row's gradient needs besides its elements.
struct RowGradient {
  RowStatistics row;
  float average, slope;  // mean(g), mean(g * unit)
};

template <class Element, bool kCentred>
LYNX_INLINE RowGradient row_gradient(const Element* x, const Element* dy, const Element* weight, int64_t D, float eps) {
  const float count = static_cast<float>(D), middle = kCentred ? row_total(x, D) / count : 0.0f;
  const Pair mean = both(set1(middle));
  Pair squares = both(zero()), along = both(zero()), total = both(zero());
  for_pairs(D, [&](int64_t i, int64_t n) {
    const Pair g = both(mul, load_pair(dy + i, n), load_pair(weight + i, n));
    const Pair numbers = load_pair(x + i, n);
    const Pair distance = kCentred ? first_of<Element>(both(sub, numbers, mean), n) : numbers;
    squares = both(fma, distance, distance, squares);
    along = both(fma, g, distance, along);
    if (kCentred) total = both(add, g, total);
  });
  const float rstd = reciprocal_root(hsum(add(squares.a, squares.b)) / count, eps);
  const float slope = hsum(add(along.a, along.b)) * rstd / count;
  // An infinite g makes the whole gradient of a LayerNorm NaN, as the reference does: through 0 * slope.
  const float average = kCentred ? hsum(add(total.a, total.b)) / count + 0.0f * slope : 0.0f;
  return {{middle, rstd}, average, slope};
}

/// dx of a row; adds the row to the sums `d_weight` and `d_bias`, whose lanes lie as pairs of Element do.
template <class Element, bool kCentred, bool kWeights>
LYNX_INLINE void gradient_row(const Element* x, const Element* dy, const Element* d_sum, const Element* weight,
                              const RowGradient& of, int64_t D, Element* dx, float* d_weight, float* d_bias) {
  const Pair mean = both(set1(of.row.mean)), rstd = both(set1(of.row.rstd));
  const Pair average = both(set1(of.average)), slope = both(set1(of.slope));
  for_pairs(D, [&](int64_t i, int64_t n) {
    const Pair numbers = load_pair(x + i, n), up = load_pair(dy + i, n);
    const Pair unit = both(mul, kCentred ? both(sub, numbers, mean) : numbers, rstd);
    Pair g = both(mul, up, load_pair(weight + i, n));
    if (kCentred) g = both(sub, g, average);
    g = both(mul, rstd, both(fnma, unit, slope, g));
    store_pair(dx + i, d_sum == nullptr ? g : both(add, g, load_pair(d_sum + i, n)), n);
    if (kWeights) {
      store_pair(d_weight + i, both(fma, up, unit, load_pair(d_weight + i, kPair)), kPair);
      if (kCentred) store_pair(d_bias + i, both(add, up, load_pair(d_bias + i, kPair)), kPair);
    }
  });
}

/// How the rows are cut for sums over them: at least 16 a block, since a block costs the reading of its sums, and at most
/// 32 blocks, which bounds the workspace.
struct Blocks {
  int64_t rows, count, width;  // width: floats of a block's sum, whole pairs
  Blocks(int64_t T, int64_t D) {
    rows = (T + 31) / 32 < 16 ? 16 : (T + 31) / 32;
    count = (T + rows - 1) / rows;
    width = (D + kPair - 1) / kPair * kPair;
  }
};

inline int64_t backward_workspace(const BackwardParams& p) {
  const Blocks blocks(p.T, p.D);
  return p.d_weight == nullptr ? 0 : 2 * aligned_bytes(blocks.count * blocks.width, sizeof(float));
}

LYNX_INLINE void clear(float* sums, int64_t width) {
  for_pairs(width, [&](int64_t i, int64_t n) { store_pair(sums + i, both(zero()), n); });
}

/// out = the sum of all blocks' sums, in order.
template <class Element>
void add_blocks(const float* sums, const Blocks& blocks, int64_t D, Element* out) {
  const auto columns = [&](int64_t index, int) {
    const int64_t i = index * kPair;
    Pair total = both(zero());
    for (int64_t block = 0; block < blocks.count; ++block) {
      total = both(add, total, load_pair(sums + block * blocks.width + i, kPair));
    }
    store_pair(out + i, total, D - i);
  };
  parallel_for(blocks.width / kPair, columns, blocks.count * D > 65536);
}

template <class Element, bool kCentred, bool kWeights>
void gradient_rows(const BackwardParams& p, const Blocks& blocks, float* d_weight, float* d_bias) {
  const auto* weight = static_cast<const Element*>(p.weight);
  const auto task = [&](int64_t block, int) {
    float* weight_sums = kWeights ? d_weight + block * blocks.width : nullptr;
    float* bias_sums = kWeights && kCentred ? d_bias + block * blocks.width : nullptr;
    if (kWeights) clear(weight_sums, blocks.width);
    if (kWeights && kCentred) clear(bias_sums, blocks.width);
    const int64_t end = at_most((block + 1) * blocks.rows, p.T);
    for (int64_t t = block * blocks.rows; t < end; ++t) {
      const Element *x = row_of<Element>(p.x, t), *dy = row_of<Element>(p.dy, t);
      const Element* d_sum = p.d_sum.data == nullptr ? nullptr : row_of<Element>(p.d_sum, t);
      const RowGradient of = row_gradient<Element, kCentred>(x, dy, weight, p.D, p.eps);
      auto* dx = static_cast<Element*>(p.dx) + t * p.D;
      gradient_row<Element, kCentred, kWeights>(x, dy, d_sum, weight, of, p.D, dx, weight_sums, bias_sums);
    }
  };
  parallel_for(blocks.count, task, p.T * p.D > 8192);
}

template <class Element, bool kCentred>
void backward_as(const BackwardParams& p) {
  const Blocks blocks(p.T, p.D);
  if (p.d_weight == nullptr) return gradient_rows<Element, kCentred, false>(p, blocks, nullptr, nullptr);
  Arena arena(p.workspace);
  auto *d_weight = arena.take<float>(blocks.count * blocks.width), *d_bias = arena.take<float>(0);
  gradient_rows<Element, kCentred, true>(p, blocks, d_weight, d_bias);
  add_blocks(d_weight, blocks, p.D, static_cast<Element*>(p.d_weight));
  if (kCentred) add_blocks(d_bias, blocks, p.D, static_cast<Element*>(p.d_bias));
}

}  // namespace lynx::LYNX_ISA
