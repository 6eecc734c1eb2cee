// Sources of A for gemm.h: fill(m, count, out, ld) writes rows m .. m + count as operands.
//
//   PlainRows<T>         scale * x [M, K], rows `stride` apart
//   NormRows<T>          LayerNorm or RMSNorm of such rows, from statistics in float32
//   TransposedRows<T>    scale * xt^T of xt [K, M]: the left side of dW = dy^T x
#pragma once
#include "gemm.h"
#include "vec_transpose.h"

namespace lynx::LYNX_ISA {

template <class T>
struct PlainRows {
  const T* x;
  int64_t stride, K;
  float scale = 1.0f;

  LYNX_INLINE void fill(int64_t m, int64_t count, Operand* out, int64_t ld) const {
    for (int64_t i = 0; i < count; ++i) {
      const T* row = x + (m + i) * stride;
      for_vectors(
          K, [&](int64_t k, int64_t n) { store_some(out + i * ld + k, mul(set1(scale), load_some(row + k, n)), n); });
    }
  }
};

struct RowStatistics {
  float mean;
  float rstd;
};

/// 1 / sqrt(squares / K + eps), rounded once: an error here is one of the whole row.
LYNX_INLINE float reciprocal_root(float squares, int64_t K, float eps) {
  return static_cast<float>(1.0 / __builtin_sqrt(static_cast<double>(squares) / static_cast<double>(K) + eps));
}

/// Mean and 1 / sqrt(var + eps) of a row, in two passes: one pass (E[x^2] - mean^2) cancels.
template <class T>
LYNX_INLINE RowStatistics row_statistics(const T* x, int64_t K, float eps) {
  Vec sum = zero();
  for_vectors(K, [&](int64_t i, int64_t n) { sum = add(sum, load_some(x + i, n)); });
  const float mean = hsum(sum) / static_cast<float>(K);
  float means[kWidth];
  store(means, set1(mean));
  Vec squares = zero();
  for_vectors(K, [&](int64_t i, int64_t n) {
    const Vec distance = sub(load_some(x + i, n), load_some(means, n));
    squares = fma(distance, distance, squares);
  });
  return {mean, reciprocal_root(hsum(squares), K, eps)};
}

/// 0 and 1 / sqrt(mean(x^2) + eps): RMSNorm is a LayerNorm that leaves the mean.
template <class T>
LYNX_INLINE RowStatistics root_mean_square(const T* x, int64_t K, float eps) {
  Vec squares = zero();
  for_vectors(K, [&](int64_t i, int64_t n) {
    const Vec value = load_some(x + i, n);
    squares = fma(value, value, squares);
  });
  return {0.0f, reciprocal_root(hsum(squares), K, eps)};
}

/// out = (x - mean) * rstd * weight + bias
template <class T, class Out>
LYNX_INLINE void normalise_row(const T* x, RowStatistics row, const T* weight, const T* bias, int64_t K, Out* out) {
  const Vec mean = set1(row.mean), rstd = set1(row.rstd);
  for_vectors(K, [&](int64_t i, int64_t n) {
    const Vec unit = mul(sub(load_some(x + i, n), mean), rstd);
    store_some(out + i, fma(unit, load_some(weight + i, n), load_some(bias + i, n)), n);
  });
}
/// out = x * rstd * weight
template <class T, class Out>
LYNX_INLINE void scale_row(const T* x, float rstd, const T* weight, int64_t K, Out* out) {
  for_vectors(K, [&](int64_t i, int64_t n) {
    store_some(out + i, mul(mul(load_some(x + i, n), set1(rstd)), load_some(weight + i, n)), n);
  });
}

/// LayerNorm with weight and bias, or RMSNorm where `bias` is null.
template <class T>
struct NormRows {
  const T* x;
  int64_t stride, K;
  const T *weight, *bias;
  float eps;

  LYNX_INLINE void fill(int64_t m, int64_t count, Operand* out, int64_t ld) const {
    for (int64_t i = 0; i < count; ++i) {
      const T* row = x + (m + i) * stride;
      if (bias == nullptr) {
        scale_row(row, root_mean_square(row, K, eps).rstd, weight, K, out + i * ld);
      } else {
        normalise_row(row, row_statistics(row, K, eps), weight, bias, K, out + i * ld);
      }
    }
  }
};

template <class T>
struct TransposedRows {
  const T* xt;
  int64_t ld_x, K;
  float scale = 1.0f;

  LYNX_INLINE void fill(int64_t m, int64_t count, Operand* out, int64_t ld) const {
    for_vectors(K, [&](int64_t k, int64_t n) {
      for (int64_t i = 0; i < count; i += kWidth) {
        const int64_t rows = smaller(count - i, kWidth);
        Vec block[kWidth];
#pragma GCC unroll 16
        for (int j = 0; j < kWidth; ++j) {
          block[j] = j < n ? mul(set1(scale), load_some(xt + (k + j) * ld_x + m + i, rows)) : zero();
        }
        transpose_vectors(block);
        for (int64_t j = 0; j < rows; ++j) store_some(out + (i + j) * ld + k, block[j], n);
      }
    });
  }
};

}  // namespace lynx::LYNX_ISA
