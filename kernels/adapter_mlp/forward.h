// y = x + s * (up silu(down LN(x) + b_down) + b_up): LayerNorm while rows of x become operands, silu and the residual in
// the epilogues of two products. `Element` is the tensors' type; LayerNorm, sums and silu are float32 everywhere.
#pragma once
#include "core/workspace.h"
#include "cpu/gemm.h"
#include "cpu/gemm_panels.h"
#include "cpu/gemm_rows.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using adapter_mlp::ForwardParams;

/// The rows times a weight [N, K] or its strips.
template <class Element, class Epilogue>
void multiply_weight(const Rows& rows, const Weight& weight, int64_t N, const GemmScratch& scratch,
                     const Epilogue& epilogue) {
  const auto* data = static_cast<const Element*>(weight.data);
  if (weight.packed) return multiply(rows, PackedB<Element>{data, rows.K}, N, scratch, epilogue);
  multiply(rows, TransposedB<Element>{data, rows.K, N, rows.K}, N, scratch, epilogue);
}

/// Zeros from K to what a product reads of each row.
LYNX_INLINE void clear_padding(const Rows& rows) {
  const int64_t padding = round_up(rows.K, 32) - rows.K;
  for (int64_t m = 0; padding > 0 && m < rows.M; ++m) {
    __builtin_memset(rows.data + m * rows.ld + rows.K, 0, static_cast<size_t>(padding) * sizeof(Operand));
  }
}

/// Scratch of one chunk of rows.
struct ForwardScratch {
  Operand *normed, *hidden;  // [rows, D], [rows, R]
  std::byte* products;

  ForwardScratch(Arena arena, int64_t rows, int64_t D, int64_t R)
      : normed(arena.take<Operand>(Rows::elements(rows, D))),
        hidden(arena.take<Operand>(Rows::elements(rows, R))),
        products(arena.take<std::byte>(0)) {}
};

inline int64_t forward_workspace(const ForwardParams& p) {
  const int64_t chunk = chunk_rows(p.T);
  const ForwardScratch measured(Arena(nullptr), chunk, p.D, p.R);
  return reinterpret_cast<int64_t>(measured.products) + GemmScratch::bytes(chunk, p.lanes);
}

template <class Element>
void forward_chunk(const ForwardParams& p, int64_t begin, int64_t rows, const ForwardScratch& s,
                   const GemmScratch& products) {
  const auto* norm_weight = static_cast<const Element*>(p.weights.norm_weight);
  const auto* norm_bias = static_cast<const Element*>(p.weights.norm_bias);
  const auto* down_bias = static_cast<const Element*>(p.weights.down_bias);
  const auto* up_bias = static_cast<const Element*>(p.weights.up_bias);
  const auto* x = static_cast<const Element*>(p.x) + begin * p.x_stride;
  auto* y = static_cast<Element*>(p.y) + begin * p.y_stride;
  const Vec scaling = set1(to_float(*static_cast<const Element*>(p.weights.scaling)));
  const Rows normed{s.normed, Rows::distance(p.D), rows, p.D}, hidden{s.hidden, Rows::distance(p.R), rows, p.R};
  fill_rows(NormRows<Element>{x, p.x_stride, p.D, norm_weight, norm_bias, p.eps}, 0, normed);
  auto* kept = static_cast<Element*>(p.pre);
  const auto activate = [&](int64_t t, int64_t r, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const Vec pre = add(load_some(sums + i, n), load_some(down_bias + r + i, n));
      if (kept != nullptr) store_some(kept + (begin + t) * p.R + r + i, pre, n);
      store_some(hidden.data + t * hidden.ld + r + i, silu(pre), n);
    });
  };
  multiply_weight<Element>(normed, p.weights.down, p.R, products, activate);
  clear_padding(hidden);
  const auto add_residual = [&](int64_t t, int64_t d, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const Vec up = add(load_some(sums + i, n), load_some(up_bias + d + i, n));
      store_some(y + t * p.y_stride + d + i, fma(scaling, up, load_some(x + t * p.x_stride + d + i, n)), n);
    });
  };
  multiply_weight<Element>(hidden, p.weights.up, p.D, products, add_residual);
}

template <class Element>
void forward_as(const ForwardParams& p) {
  const int64_t chunk = chunk_rows(p.T);
  const ForwardScratch scratch(Arena(p.workspace), chunk, p.D, p.R);
  const GemmScratch products{scratch.products, chunk, p.lanes};
  for (int64_t begin = 0; begin < p.T; begin += chunk) {
    forward_chunk<Element>(p, begin, smaller(chunk, p.T - begin), scratch, products);
  }
}

}  // namespace lynx::LYNX_ISA
