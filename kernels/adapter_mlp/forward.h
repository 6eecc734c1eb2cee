// y = x + s * (up silu(down LN(x) + b_down) + b_up), one text for every instruction set.
//
// `Element` is the tensors' type. `Operand` is what the matrix products take on their left side: float32 on the vector
// instruction sets, whatever the tensors are; bfloat16 on AMX. Sums, LayerNorm and SiLU are float32 everywhere.
#pragma once
#include "core/workspace.h"
#include "cpu/gemm_nt.h"
#include "cpu/loops.h"
#include "cpu/vec.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using adapter_mlp::ForwardParams;

constexpr int64_t kChunkRows = 256;  // rows of x between two passes over the weights; bounds the scratch memory

struct RowStatistics {
  float mean;
  float rstd;
};

/// Mean and 1 / sqrt(var + eps) of a row, in two passes: one pass (E[x^2] - mean^2) cancels.
template <class Element>
LYNX_INLINE RowStatistics row_statistics(const Element* x, int64_t D, float eps) {
  Vec sum = zero();
  for_vectors(D, [&](int64_t i, int64_t n) { sum = add(sum, load_some(x + i, n)); });
  const float mean = hsum(sum) / static_cast<float>(D);
  float means[kWidth];
  store(means, set1(mean));
  Vec squares = zero();
  for_vectors(D, [&](int64_t i, int64_t n) {
    const Vec distance = sub(load_some(x + i, n), load_some(means, n));
    squares = fma(distance, distance, squares);
  });
  return {mean, 1.0f / __builtin_sqrtf(hsum(squares) / static_cast<float>(D) + eps)};
}

/// out = (x - mean) * rstd * weight + bias
template <class Element, class Operand>
LYNX_INLINE void normalise_row(const Element* x, RowStatistics row, const Element* weight, const Element* bias,
                               int64_t D, Operand* out) {
  const Vec mean = set1(row.mean), rstd = set1(row.rstd);
  for_vectors(D, [&](int64_t i, int64_t n) {
    const Vec unit = mul(sub(load_some(x + i, n), mean), rstd);
    store_some(out + i, fma(unit, load_some(weight + i, n), load_some(bias + i, n)), n);
  });
}

/// One chunk of rows; `normed` [rows, D], `hidden` [rows, R] and `scratch` are workspace.
template <class Element, class Operand>
void forward_chunk(const ForwardParams& p, const Element* x, Element* y, int64_t rows, Operand* normed, Operand* hidden,
                   std::byte* scratch) {
  const auto* norm_weight = static_cast<const Element*>(p.weights.norm_weight);
  const auto* norm_bias = static_cast<const Element*>(p.weights.norm_bias);
  const auto* down_bias = static_cast<const Element*>(p.weights.down_bias);
  const auto* up_bias = static_cast<const Element*>(p.weights.up_bias);
  const Vec scaling = set1(to_float(*static_cast<const Element*>(p.weights.scaling)));
  for_rows(rows, p.D, [&](int64_t t) {
    const Element* row = x + t * p.x_stride;
    normalise_row(row, row_statistics(row, p.D, p.eps), norm_weight, norm_bias, p.D, normed + t * p.D);
  });
  const auto activate = [&](int64_t t, int64_t r, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const Vec pre = add(load_some(sums + i, n), load_some(down_bias + r + i, n));
      store_some(hidden + t * p.R + r + i, silu(pre), n);
    });
  };
  gemm_nt(normed, p.D, static_cast<const Element*>(p.weights.down_weight), p.D, rows, p.R, p.D, scratch, activate);
  const auto add_residual = [&](int64_t t, int64_t d, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const Vec up = add(load_some(sums + i, n), load_some(up_bias + d + i, n));
      store_some(y + t * p.y_stride + d + i, fma(scaling, up, load_some(x + t * p.x_stride + d + i, n)), n);
    });
  };
  gemm_nt(hidden, p.R, static_cast<const Element*>(p.weights.up_weight), p.R, rows, p.D, p.R, scratch, add_residual);
}

template <class Operand>
int64_t forward_workspace(const ForwardParams& p) {
  const int64_t rows = p.T < kChunkRows ? p.T : kChunkRows;
  return aligned_bytes(rows * p.D, sizeof(Operand)) + aligned_bytes(rows * p.R, sizeof(Operand)) +
         gemm_nt_scratch<Operand>(rows, p.D > p.R ? p.D : p.R);
}

template <class Element, class Operand>
void forward_as(const ForwardParams& p) {
  const int64_t chunk = p.T < kChunkRows ? p.T : kChunkRows;
  Arena arena(p.workspace);
  auto* normed = arena.take<Operand>(chunk * p.D);
  auto* hidden = arena.take<Operand>(chunk * p.R);
  auto* scratch = arena.take<std::byte>(0);
  for (int64_t t = 0; t < p.T; t += kChunkRows) {
    const int64_t rows = p.T - t < kChunkRows ? p.T - t : kChunkRows;
    forward_chunk<Element, Operand>(p, static_cast<const Element*>(p.x) + t * p.x_stride,
                                    static_cast<Element*>(p.y) + t * p.y_stride, rows, normed, hidden, scratch);
  }
}

}  // namespace lynx::LYNX_ISA
