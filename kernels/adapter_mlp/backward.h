// The gradients of adapter_mlp for all eight tensors, one text for every instruction set.
//
//   n = LN(x)             [T, D]    pre = n down^T + b_down    [T, R]    h = silu(pre)    y = x + s (h up^T + b_up)
//   g = dy up             [T, R]    d_pre = s g silu'(pre)               d_n = d_pre down
//   d_up   = s dy^T h     [D, R]    d_b_up   = s sum_t dy                d_s = sum h g + sum dy b_up
//   d_down = d_pre^T n    [R, D]    d_b_down = sum_t d_pre
//   d_norm_weight = sum_t d_n unit(x)                d_norm_bias = sum_t d_n
//   d_x    = dy + rstd (w d_n - mean(w d_n) - unit(x) mean(w d_n unit(x)))
//
// d_s needs no product of its own: sum_td dy (h up^T) = sum_tr h (dy up). The forward pass keeps pre alone; n and h are
// computed anew. What stands between the products happens in their epilogues; n, h and d_pre stay for the weights'
// gradients, everything else for one chunk of rows.
#pragma once
#include "forward.h"

namespace lynx::LYNX_ISA {

using adapter_mlp::BackwardParams;

struct BackwardScratch {
  RowStatistics* statistics;                // [T]
  float* strip_dots;                        // [T, R / 16]
  double* row_dot;                          // [T]
  Operand *normed, *hidden, *d_pre, *left;  // [T, D], [T, R], [T, R]; the left side of one product
  float *slope, *d_normed;                  // [chunk, R] silu'(pre), [chunk, D]
  float* norm_sums;                         // [2, D]
  std::byte* products;

  /// `left`: dy of a chunk, or a chunk of a transposed gradient, which is T deep.
  static int64_t left_elements(const BackwardParams& p) {
    const int64_t of_dy = Rows::elements(chunk_rows(p.T), p.D);
    const int64_t of_up = Rows::elements(chunk_rows(p.D), p.T), of_down = Rows::elements(chunk_rows(p.R), p.T);
    return larger(of_dy, larger(of_up, of_down));
  }
  static int64_t product_rows(const BackwardParams& p) {
    return larger(chunk_rows(p.T), larger(chunk_rows(p.D), chunk_rows(p.R)));
  }

  BackwardScratch(Arena arena, const BackwardParams& p)
      : statistics(arena.take<RowStatistics>(p.T)),
        strip_dots(arena.take<float>(p.T * strips(p))),
        row_dot(arena.take<double>(p.T)),
        normed(arena.take<Operand>(Rows::elements(p.T, p.D))),
        hidden(arena.take<Operand>(Rows::elements(p.T, p.R))),
        d_pre(arena.take<Operand>(Rows::elements(p.T, p.R))),
        left(arena.take<Operand>(left_elements(p))),
        slope(arena.take<float>(chunk_rows(p.T) * p.R)),
        d_normed(arena.take<float>(chunk_rows(p.T) * p.D)),
        norm_sums(arena.take<float>(2 * p.D)),
        products(arena.take<std::byte>(0)) {}

  static int64_t strips(const BackwardParams& p) { return (p.R + kStripColumns - 1) / kStripColumns; }
};

inline int64_t backward_workspace(const BackwardParams& p) {
  const BackwardScratch measured(Arena(nullptr), p);
  return reinterpret_cast<int64_t>(measured.products) + GemmScratch::bytes(BackwardScratch::product_rows(p), p.lanes);
}

/// One call: tensors under their types, scratch, and what all steps need.
template <class Element>
struct Backward {
  const BackwardParams& p;
  const BackwardScratch s;
  const GemmScratch products;
  const Element *dy, *x, *pre, *norm_weight, *norm_bias, *down, *up, *up_bias;
  // A finite s multiplies the products' results. An infinite or NaN one must meet their terms one by one, as in the
  // reference: inf * (a + b) is infinite where inf * a + inf * b is NaN.
  const float scaling, scale_first, scale_last;

  explicit Backward(const BackwardParams& params)
      : p(params),
        s(Arena(p.workspace), p),
        products{s.products, BackwardScratch::product_rows(p), p.lanes},
        dy(in(p.dy)),
        x(in(p.x)),
        pre(in(p.pre)),
        norm_weight(in(p.weights.norm_weight)),
        norm_bias(in(p.weights.norm_bias)),
        down(in(p.weights.down.data)),
        up(in(p.weights.up.data)),
        up_bias(in(p.weights.up_bias)),
        scaling(to_float(*in(p.weights.scaling))),
        scale_first(__builtin_isfinite(scaling) ? 1.0f : scaling),
        scale_last(__builtin_isfinite(scaling) ? scaling : 1.0f) {}

  Rows normed(int64_t begin, int64_t rows) const { return rows_of(s.normed, begin, rows, p.D); }
  Rows hidden(int64_t begin, int64_t rows) const { return rows_of(s.hidden, begin, rows, p.R); }
  Rows d_pre(int64_t begin, int64_t rows) const { return rows_of(s.d_pre, begin, rows, p.R); }

  static const Element* in(const void* pointer) { return static_cast<const Element*>(pointer); }
  static Element* out(void* pointer) { return static_cast<Element*>(pointer); }

 private:
  static Rows rows_of(Operand* data, int64_t begin, int64_t rows, int64_t K) {
    return {data + begin * Rows::distance(K), Rows::distance(K), rows, K};
  }
};

/// normed, and hidden and slope = silu'(pre) from what the forward pass kept.
template <class Element>
void recompute(const Backward<Element>& b, int64_t begin, int64_t rows) {
  const BackwardParams& p = b.p;
  const Rows normed = b.normed(begin, rows), hidden = b.hidden(begin, rows);
  for_rows(rows, p.D + p.R, [&](int64_t t) {
    const Element* x = b.x + (begin + t) * p.x_stride;
    const RowStatistics of = b.s.statistics[begin + t] = row_statistics(x, p.D, p.eps);
    normalise_row(x, of, b.norm_weight, b.norm_bias, p.D, normed.data + t * normed.ld);
    const Element* pre = b.pre + (begin + t) * p.R;
    for_vectors(p.R, [&](int64_t i, int64_t n) {
      const Vec one = set1(1.0f), value = load_some(pre + i, n);
      const Vec sigmoid = div(one, add(one, vexp(sub(zero(), value))));
      store_some(hidden.data + t * hidden.ld + i, silu(value), n);
      store_some(b.s.slope + t * p.R + i, mul(sigmoid, fma(value, sub(one, sigmoid), one)), n);
    });
  });
}

/// One strip of sum_r h g.
LYNX_INLINE float strip_dot(const Operand* h, const float* g, int64_t count) {
  Vec sum = zero();
  for_vectors(count, [&](int64_t i, int64_t n) { sum = fma(load_some(h + i, n), load_some(g + i, n), sum); });
  return hsum(sum);
}

/// d_pre = s g slope, and the strips' shares of sum h g: summed in one order whatever the tasks.
template <class Element>
void through_up(const Backward<Element>& b, int64_t begin, int64_t rows) {
  const BackwardParams& p = b.p;
  const Rows d_pre = b.d_pre(begin, rows), hidden = b.hidden(begin, rows);
  const Rows left{b.s.left, Rows::distance(p.D), rows, p.D};
  const PlainB<Element> up{b.up, p.R, p.R, p.D};
  const auto scale = [&](int64_t t, int64_t r, int64_t count, const float* g) {
    for_vectors(count, [&](int64_t i, int64_t n) {
      const Vec d_hidden = mul(set1(b.scale_last), load_some(g + i, n));
      store_some(d_pre.data + t * d_pre.ld + r + i, mul(d_hidden, load_some(b.s.slope + t * p.R + r + i, n)), n);
    });
  };
  const auto scale_and_dot = [&](int64_t t, int64_t r, int64_t count, const float* g) {
    scale(t, r, count, g);
    float* dots = b.s.strip_dots + (begin + t) * BackwardScratch::strips(p) + r / kStripColumns;
    for (int64_t i = 0; i < count; i += kStripColumns) {
      *dots++ = strip_dot(hidden.data + t * hidden.ld + r + i, g + i, smaller(count - i, kStripColumns));
    }
  };
  const Element* dy = b.dy + begin * p.dy_stride;
  fill_rows(PlainRows<Element>{dy, p.dy_stride, p.D}, 0, left);
  multiply(left, up, p.R, b.products, scale_and_dot);
  if (b.scale_first != 1.0f) {
    fill_rows(PlainRows<Element>{dy, p.dy_stride, p.D, b.scale_first}, 0, left);
    multiply(left, up, p.R, b.products, scale);
  }
  clear_padding(d_pre);
}

/// body(first, last) for runs of at most 32 rows: sums over many rows are sums of sums, as exact as torch's.
template <class Body>
LYNX_INLINE void for_runs(int64_t rows, const Body& body) {
  constexpr int64_t kRun = 32;
  for (int64_t first = 0; first < rows; first += kRun) body(first, smaller(first + kRun, rows));
}

/// Sums over rows and columns: row_dot, and d_norm_weight, d_norm_bias as far as this chunk.
template <class Element>
void sum_rows(const Backward<Element>& b, int64_t begin, int64_t rows) {
  const BackwardParams& p = b.p;
  for_rows(rows, p.D, [&](int64_t t) {
    const Element* dy = b.dy + (begin + t) * p.dy_stride;
    Vec sum = zero();
    for_vectors(p.D, [&](int64_t i, int64_t n) { sum = fma(load_some(dy + i, n), load_some(b.up_bias + i, n), sum); });
    double dot = hsum(sum);
    const int64_t strips = BackwardScratch::strips(p);
    for (int64_t i = 0; i < strips; ++i) dot += b.s.strip_dots[(begin + t) * strips + i];
    b.s.row_dot[begin + t] = dot;
  });
  const auto columns = [&](int64_t index, int) {
    const int64_t d = index * kWidth, n = smaller(p.D - d, kWidth);
    float *weights = b.s.norm_sums + d, *biases = weights + p.D;
    Vec weight = begin == 0 ? zero() : load_some(weights, n), bias = begin == 0 ? zero() : load_some(biases, n);
    for_runs(rows, [&](int64_t first, int64_t last) {
      Vec run_weight = zero(), run_bias = zero();
      for (int64_t t = first; t < last; ++t) {
        const RowStatistics of = b.s.statistics[begin + t];
        const Vec unit = mul(sub(load_some(b.x + (begin + t) * p.x_stride + d, n), set1(of.mean)), set1(of.rstd));
        const Vec gradient = load_some(b.s.d_normed + t * p.D + d, n);
        run_weight = fma(gradient, unit, run_weight);
        run_bias = add(run_bias, gradient);
      }
      weight = add(weight, run_weight);
      bias = add(bias, run_bias);
    });
    store_some(weights, weight, n);
    store_some(biases, bias, n);
  };
  parallel_for((p.D + kWidth - 1) / kWidth, columns, rows * p.D > 8192);
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

/// d_n = d_pre down, and through LayerNorm to dx.
template <class Element>
void through_down_and_norm(const Backward<Element>& b, int64_t begin, int64_t rows) {
  const BackwardParams& p = b.p;
  const auto keep = [&](int64_t t, int64_t d, int64_t count, const float* sums) {
    for_vectors(count,
                [&](int64_t i, int64_t n) { store_some(b.s.d_normed + t * p.D + d + i, load_some(sums + i, n), n); });
  };
  multiply(b.d_pre(begin, rows), PlainB<Element>{b.down, p.D, p.D, p.R}, p.D, b.products, keep);
  for_rows(rows, p.D, [&](int64_t t) {
    const int64_t row = begin + t;
    input_gradient_row(b.dy + row * p.dy_stride, b.x + row * p.x_stride, b.norm_weight, b.s.d_normed + t * p.D,
                       b.s.statistics[row], p.D, Backward<Element>::out(p.dx) + row * p.D);
  });
}

/// out [M, N] = scale * left^T right over all rows T: left [T, M], right [T, N].
template <class Element, class Left>
void weight_gradient(const Backward<Element>& b, const TransposedRows<Left>& left, int64_t M, const Rows& right,
                     float scale, Element* out) {
  const int64_t N = right.K, chunk = chunk_rows(M);
  const PlainB<Operand> panels{right.data, right.ld, N, right.M};
  for (int64_t begin = 0; begin < M; begin += chunk) {
    const Rows rows{b.s.left, Rows::distance(right.M), smaller(chunk, M - begin), right.M};
    fill_rows(left, begin, rows);
    multiply(rows, panels, N, b.products, [&](int64_t m, int64_t n, int64_t count, const float* sums) {
      for_vectors(count, [&](int64_t i, int64_t length) {
        store_some(out + (begin + m) * N + n + i, mul(set1(scale), load_some(sums + i, length)), length);
      });
    });
  }
}

/// out[c] = last * sum over rows of first * in[row][c]
template <class In, class Element>
void column_sums(const In* in, int64_t ld, int64_t rows, int64_t columns, float first, float last, Element* out) {
  const auto task = [&](int64_t index, int) {
    const int64_t c = index * kWidth, n = smaller(columns - c, kWidth);
    Vec sum = zero();
    for_runs(rows, [&](int64_t begin, int64_t end) {
      Vec run = zero();
      for (int64_t row = begin; row < end; ++row) run = fma(set1(first), load_some(in + row * ld + c, n), run);
      sum = add(sum, run);
    });
    store_some(out + c, mul(set1(last), sum), n);
  };
  parallel_for((columns + kWidth - 1) / kWidth, task, rows * columns > 8192);
}

/// The gradients of the parameters, from what all chunks have left.
template <class Element>
void parameter_gradients(const Backward<Element>& b) {
  using Tensors = Backward<Element>;
  const BackwardParams& p = b.p;
  const Rows normed = b.normed(0, p.T), hidden = b.hidden(0, p.T), d_pre = b.d_pre(0, p.T);
  const TransposedRows<Element> dy{b.dy, p.dy_stride, p.T, b.scale_first};
  weight_gradient(b, dy, p.D, hidden, b.scale_last, Tensors::out(p.d_up_weight));
  const TransposedRows<Operand> d_pre_t{d_pre.data, d_pre.ld, p.T};
  weight_gradient(b, d_pre_t, p.R, normed, 1.0f, Tensors::out(p.d_down_weight));
  column_sums(b.dy, p.dy_stride, p.T, p.D, b.scale_first, b.scale_last, Tensors::out(p.d_up_bias));
  column_sums(d_pre.data, d_pre.ld, p.T, p.R, 1.0f, 1.0f, Tensors::out(p.d_down_bias));
  for_vectors(p.D, [&](int64_t i, int64_t n) {
    store_some(Tensors::out(p.d_norm_weight) + i, p.T == 0 ? zero() : load_some(b.s.norm_sums + i, n), n);
    store_some(Tensors::out(p.d_norm_bias) + i, p.T == 0 ? zero() : load_some(b.s.norm_sums + p.D + i, n), n);
  });
  double d_scaling = 0.0;
  for (int64_t row = 0; row < p.T; ++row) d_scaling += b.s.row_dot[row];
  assign(*Tensors::out(p.d_scaling), static_cast<float>(d_scaling));
}

template <class Element>
void backward_as(const BackwardParams& p) {
  const Backward<Element> b(p);
  const int64_t chunk = chunk_rows(p.T);
  for (int64_t begin = 0; begin < p.T; begin += chunk) {
    const int64_t rows = smaller(chunk, p.T - begin);
    recompute(b, begin, rows);
    through_up(b, begin, rows);
    through_down_and_norm(b, begin, rows);
    sum_rows(b, begin, rows);
  }
  parameter_gradients(b);
}

}  // namespace lynx::LYNX_ISA
