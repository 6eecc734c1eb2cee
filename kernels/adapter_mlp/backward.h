// The gradients of adapter_mlp for all eight tensors, one text for every instruction set.
//
//   n = LN(x)             [T, D]    pre = n down^T + b_down    [T, R]    h = silu(pre)    y = x + s (h up^T + b_up)
//   g = dy up             [T, R]    d_pre = s g silu'(pre)               d_n = d_pre down
//   d_up   = s dy^T h     [D, R]    d_b_up   = s sum_t dy                d_s = sum h g + sum dy b_up
//   d_down = d_pre^T n    [R, D]    d_b_down = sum_t d_pre
//   d_norm_weight = sum_t d_n unit(x)                d_norm_bias = sum_t d_n
//   d_x    = dy + rstd (w d_n - mean(w d_n) - unit(x) mean(w d_n unit(x)))
//
// d_s needs no product of its own: sum_td dy (h up^T) = sum_tr h (dy up). n, pre and h are computed anew, not kept from
// the forward pass. Every product is a gemm_nt, so operands that run along the wrong axis are transposed first.
#pragma once
#include "forward.h"

namespace lynx::LYNX_ISA {

using adapter_mlp::BackwardParams;

/// Scratch arrays of one call. `Operand` arrays enter matrix products; the rest is float32.
template <class Operand>
struct BackwardScratch {
  RowStatistics* statistics;                 // [T]
  Operand *normed, *normed_t, *dy, *dy_t;    // [T, D], [D, T], [T, D], [D, T]
  Operand *hidden, *hidden_t;                // [T, R], [R, T]
  Operand *d_pre, *d_pre_t;                  // [T, R], [R, T]
  Operand *up_t, *down_t;                    // [R, D], [D, R]
  float *slope, *back, *d_normed, *row_dot;  // [T, R] silu'(pre), [T, R] g, [T, D], [T]
  std::byte* products;

  BackwardScratch(Arena arena, int64_t T, int64_t D, int64_t R)
      : statistics(arena.take<RowStatistics>(T)),
        normed(arena.take<Operand>(T * D)),
        normed_t(arena.take<Operand>(T * D)),
        dy(arena.take<Operand>(T * D)),
        dy_t(arena.take<Operand>(T * D)),
        hidden(arena.take<Operand>(T * R)),
        hidden_t(arena.take<Operand>(T * R)),
        d_pre(arena.take<Operand>(T * R)),
        d_pre_t(arena.take<Operand>(T * R)),
        up_t(arena.take<Operand>(R * D)),
        down_t(arena.take<Operand>(R * D)),
        slope(arena.take<float>(T * R)),
        back(arena.take<float>(T * R)),
        d_normed(arena.take<float>(T * D)),
        row_dot(arena.take<float>(T)),
        products(arena.take<std::byte>(0)) {}
};

template <class Operand>
int64_t backward_workspace(const BackwardParams& p) {
  const BackwardScratch<Operand> measured(Arena(nullptr), p.T, p.D, p.R);
  return reinterpret_cast<int64_t>(measured.products) + gemm_nt_scratch<Operand>(p.T, p.D > p.R ? p.D : p.R);
}

/// Pointers of one call under their types.
template <class Element>
struct BackwardTensors {
  const Element *dy, *x, *norm_weight, *norm_bias, *down_weight, *down_bias, *up_weight, *up_bias;
  // A finite s multiplies the products' results. An infinite or NaN one must meet their terms one by one, as in the
  // reference: inf * (a + b) is infinite where inf * a + inf * b is NaN.
  float scaling, scale_last;
  bool scale_first;
  Element *dx, *d_norm_weight, *d_norm_bias, *d_down_weight, *d_down_bias, *d_up_weight, *d_up_bias, *d_scaling;

  explicit BackwardTensors(const BackwardParams& p)
      : dy(in(p.dy)),
        x(in(p.x)),
        norm_weight(in(p.weights.norm_weight)),
        norm_bias(in(p.weights.norm_bias)),
        down_weight(in(p.weights.down_weight)),
        down_bias(in(p.weights.down_bias)),
        up_weight(in(p.weights.up_weight)),
        up_bias(in(p.weights.up_bias)),
        scaling(to_float(*in(p.weights.scaling))),
        scale_last(__builtin_isfinite(scaling) ? scaling : 1.0f),
        scale_first(!__builtin_isfinite(scaling)),
        dx(out(p.dx)),
        d_norm_weight(out(p.d_norm_weight)),
        d_norm_bias(out(p.d_norm_bias)),
        d_down_weight(out(p.d_down_weight)),
        d_down_bias(out(p.d_down_bias)),
        d_up_weight(out(p.d_up_weight)),
        d_up_bias(out(p.d_up_bias)),
        d_scaling(out(p.d_scaling)) {}

 private:
  static const Element* in(const void* p) { return static_cast<const Element*>(p); }
  static Element* out(void* p) { return static_cast<Element*>(p); }
};

/// normed, hidden and slope = silu'(pre), as the forward pass has them.
template <class Element, class Operand>
void recompute(const BackwardParams& p, const BackwardTensors<Element>& t, const BackwardScratch<Operand>& s) {
  for_rows(p.T, p.D, [&](int64_t row) {
    const Element* x = t.x + row * p.x_stride;
    s.statistics[row] = row_statistics(x, p.D, p.eps);
    normalise_row(x, s.statistics[row], t.norm_weight, t.norm_bias, p.D, s.normed + row * p.D);
  });
  const auto activate = [&](int64_t row, int64_t r, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const int64_t at = row * p.R + r + i;
      const Vec one = set1(1.0f);
      const Vec pre = add(load_some(sums + i, n), load_some(t.down_bias + r + i, n));
      const Vec sigmoid = div(one, add(one, vexp(sub(zero(), pre))));
      store_some(s.hidden + at, silu(pre), n);
      store_some(s.slope + at, mul(sigmoid, fma(pre, sub(one, sigmoid), one)), n);
    });
  };
  gemm_nt(s.normed, p.D, t.down_weight, p.D, p.T, p.R, p.D, s.products, activate);
}

template <class A, class B>
LYNX_INLINE float row_dot(const A* a, const B* b, int64_t count) {
  Vec sum = zero();
  for_vectors(count, [&](int64_t i, int64_t n) { sum = fma(load_some(a + i, n), load_some(b + i, n), sum); });
  return hsum(sum);
}

template <class Operand>
LYNX_INLINE void scale_row(float factor, Operand* row, int64_t count) {
  for_vectors(count, [&](int64_t i, int64_t n) { store_some(row + i, mul(set1(factor), load_some(row + i, n)), n); });
}

/// back = dy up
template <class Operand>
void multiply_by_up(const BackwardParams& p, const BackwardScratch<Operand>& s) {
  const auto keep = [&](int64_t row, int64_t r, int64_t count, const float* sums) {
    for_vectors(count,
                [&](int64_t i, int64_t n) { store_some(s.back + row * p.R + r + i, load_some(sums + i, n), n); });
  };
  gemm_nt(s.dy, p.D, s.up_t, p.D, p.T, p.R, p.D, s.products, keep);
}

/// dy and its transpose as operands, row_dot[t] = sum_r h g + sum_d dy b_up, d_pre = s g slope
template <class Element, class Operand>
void through_up(const BackwardParams& p, const BackwardTensors<Element>& t, const BackwardScratch<Operand>& s) {
  copy_rows(t.dy, p.dy_stride, p.T, p.D, s.dy);
  transpose(t.up_weight, p.R, p.D, p.R, s.up_t);
  multiply_by_up(p, s);
  for_rows(p.T, p.D + p.R, [&](int64_t row) {
    const float hidden_part = row_dot(s.back + row * p.R, s.hidden + row * p.R, p.R);
    s.row_dot[row] = hidden_part + row_dot(t.dy + row * p.dy_stride, t.up_bias, p.D);
  });
  if (t.scale_first) {
    for_rows(p.T, p.D, [&](int64_t row) { scale_row(t.scaling, s.dy + row * p.D, p.D); });
    multiply_by_up(p, s);
  }
  transpose(s.dy, p.D, p.T, p.D, s.dy_t);
  for_rows(p.T, p.R, [&](int64_t row) {
    for_vectors(p.R, [&](int64_t i, int64_t n) {
      const int64_t at = row * p.R + i;
      const Vec d_hidden = mul(set1(t.scale_last), load_some(s.back + at, n));
      store_some(s.d_pre + at, mul(d_hidden, load_some(s.slope + at, n)), n);
    });
  });
}

template <class Operand>
LYNX_INLINE float row_sum(const Operand* row, int64_t count) {
  Vec sum = zero();
  for_vectors(count, [&](int64_t i, int64_t n) { sum = add(sum, load_some(row + i, n)); });
  return hsum(sum);
}

/// out[m][n] = scale * (a b^T)[m][n], dense.
template <class Element, class Operand>
void weight_gradient(const Operand* a, const Operand* b, int64_t M, int64_t N, int64_t K, float scale,
                     std::byte* scratch, Element* out) {
  const auto scaled = [&](int64_t m, int64_t n, int64_t count, const float* sums) {
    for_vectors(count, [&](int64_t i, int64_t length) {
      store_some(out + m * N + n + i, mul(set1(scale), load_some(sums + i, length)), length);
    });
  };
  gemm_nt(a, K, b, K, M, N, K, scratch, scaled);
}

template <class Element, class Operand>
void up_gradients(const BackwardParams& p, const BackwardTensors<Element>& t, const BackwardScratch<Operand>& s) {
  transpose(s.hidden, p.R, p.T, p.R, s.hidden_t);
  weight_gradient(s.dy_t, s.hidden_t, p.D, p.R, p.T, t.scale_last, s.products, t.d_up_weight);
  for (int64_t d = 0; d < p.D; ++d) assign(t.d_up_bias[d], t.scale_last * row_sum(s.dy_t + d * p.T, p.T));
  double d_scaling = 0.0;
  for (int64_t row = 0; row < p.T; ++row) d_scaling += s.row_dot[row];
  assign(*t.d_scaling, static_cast<float>(d_scaling));
}

template <class Element, class Operand>
void down_gradients(const BackwardParams& p, const BackwardTensors<Element>& t, const BackwardScratch<Operand>& s) {
  transpose(s.d_pre, p.R, p.T, p.R, s.d_pre_t);
  transpose(s.normed, p.D, p.T, p.D, s.normed_t);
  weight_gradient(s.d_pre_t, s.normed_t, p.R, p.D, p.T, 1.0f, s.products, t.d_down_weight);
  for (int64_t r = 0; r < p.R; ++r) assign(t.d_down_bias[r], row_sum(s.d_pre_t + r * p.T, p.T));
}

/// d_norm_weight and d_norm_bias: sums over rows, a task for each vector of columns.
template <class Element, class Operand>
void norm_gradients(const BackwardParams& p, const BackwardTensors<Element>& t, const BackwardScratch<Operand>& s) {
  const auto columns = [&](int64_t index, int) {
    const int64_t d = index * kWidth, n = p.D - d < kWidth ? p.D - d : kWidth;
    Vec weight = zero(), bias = zero();
    for (int64_t row = 0; row < p.T; ++row) {
      const RowStatistics of = s.statistics[row];
      const Vec unit = mul(sub(load_some(t.x + row * p.x_stride + d, n), set1(of.mean)), set1(of.rstd));
      const Vec gradient = load_some(s.d_normed + row * p.D + d, n);
      weight = fma(gradient, unit, weight);
      bias = add(bias, gradient);
    }
    store_some(t.d_norm_weight + d, weight, n);
    store_some(t.d_norm_bias + d, bias, n);
  };
  parallel_for((p.D + kWidth - 1) / kWidth, columns, p.T * p.D > 8192);
}

/// dx of one row: dy + rstd (w d_n - mean(w d_n) - unit mean(w d_n unit))
template <class Element>
LYNX_INLINE void input_gradient_row(const Element* dy, const Element* x, const Element* weight, const float* d_normed,
                                    RowStatistics of, int64_t D, Element* dx) {
  const Vec mean = set1(of.mean), rstd = set1(of.rstd);
  Vec sum = zero(), sum_unit = zero();
  for_vectors(D, [&](int64_t i, int64_t n) {
    const Vec weighted = mul(load_some(weight + i, n), load_some(d_normed + i, n));
    sum = add(sum, weighted);
    sum_unit = fma(weighted, mul(sub(load_some(x + i, n), mean), rstd), sum_unit);
  });
  const Vec average = set1(hsum(sum) / static_cast<float>(D)), slope = set1(hsum(sum_unit) / static_cast<float>(D));
  for_vectors(D, [&](int64_t i, int64_t n) {
    const Vec unit = mul(sub(load_some(x + i, n), mean), rstd);
    const Vec weighted = mul(load_some(weight + i, n), load_some(d_normed + i, n));
    const Vec centred = sub(sub(weighted, average), mul(unit, slope));
    store_some(dx + i, fma(rstd, centred, load_some(dy + i, n)), n);
  });
}

template <class Element, class Operand>
void through_down_and_norm(const BackwardParams& p, const BackwardTensors<Element>& t,
                           const BackwardScratch<Operand>& s) {
  transpose(t.down_weight, p.D, p.R, p.D, s.down_t);
  const auto keep = [&](int64_t row, int64_t d, int64_t count, const float* sums) {
    for_vectors(count,
                [&](int64_t i, int64_t n) { store_some(s.d_normed + row * p.D + d + i, load_some(sums + i, n), n); });
  };
  gemm_nt(s.d_pre, p.R, s.down_t, p.R, p.T, p.D, p.R, s.products, keep);
  norm_gradients(p, t, s);
  for_rows(p.T, p.D, [&](int64_t row) {
    input_gradient_row(t.dy + row * p.dy_stride, t.x + row * p.x_stride, t.norm_weight, s.d_normed + row * p.D,
                       s.statistics[row], p.D, t.dx + row * p.D);
  });
}

template <class Element, class Operand>
void backward_as(const BackwardParams& p) {
  const BackwardTensors<Element> tensors(p);
  const BackwardScratch<Operand> scratch(Arena(p.workspace), p.T, p.D, p.R);
  recompute(p, tensors, scratch);
  through_up(p, tensors, scratch);
  up_gradients(p, tensors, scratch);
  down_gradients(p, tensors, scratch);
  through_down_and_norm(p, tensors, scratch);
}

}  // namespace lynx::LYNX_ISA
