// What the linears share, whatever their weight is made of: a product of any length, and the epilogue of core/linear_call.h.
#pragma once
#include "core/linear_call.h"
#include "cpu/gemm.h"

namespace lynx::LYNX_ISA {

LYNX_INLINE int64_t product_workspace(int64_t rows, int64_t depth, int64_t lanes) {
  const int64_t chunk = chunk_rows(rows);
  return aligned_bytes(Rows::elements(chunk, depth), sizeof(Operand)) + GemmScratch::bytes(chunk, lanes);
}

/// Rows of `source` times B, chunk after chunk; epilogue(m, n, count, sums) with m counted over all rows.
template <class Source, class B, class Epilogue>
LYNX_INLINE void product(int64_t M, int64_t N, int64_t K, const Source& source, const B& b, int64_t lanes,
                         std::byte* workspace, const Epilogue& epilogue) {
  const int64_t chunk = chunk_rows(M);
  Arena arena(workspace);
  auto* operands = arena.take<Operand>(Rows::elements(chunk, K));
  const GemmScratch scratch{arena.take<std::byte>(0), chunk, lanes};
  for (int64_t begin = 0; begin < M; begin += chunk) {
    const Rows rows{operands, Rows::distance(K), smaller(chunk, M - begin), K};
    fill_rows(source, begin, rows);
    multiply(rows, b, N, scratch,
             [&](int64_t m, int64_t n, int64_t count, const float* sums) { epilogue(begin + m, n, count, sums); });
  }
}

template <class T>
struct LinearEpilogue {
  const LinearCall& p;

  LYNX_INLINE void operator()(int64_t m, int64_t n, int64_t count, const float* sums) const {
    switch (p.activation) {
      case Activation::none:
        return plain(m, n, count, sums, [](Vec v) __attribute__((always_inline)) { return v; });
      case Activation::silu:
        return plain(m, n, count, sums, [](Vec v) __attribute__((always_inline)) { return silu(v); });
      case Activation::gelu:
        return plain(m, n, count, sums, [](Vec v) __attribute__((always_inline)) { return gelu(v); });
      case Activation::gated_silu:
        return gated(m, n, count, sums);
    }
  }

 private:
  template <class Function>
  LYNX_INLINE void plain(int64_t m, int64_t n, int64_t count, const float* sums, const Function& function) const {
    const auto* bias = static_cast<const T*>(p.bias);
    for_vectors(count, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      const Vec sum = load_some(sums + i, left);
      finish(m, n + i, left, function(bias == nullptr ? sum : add(sum, load_some(bias + n + i, left))));
    });
  }
  /// Sums of a strip of gates and of its strip of ups, side by side.
  LYNX_INLINE void gated(int64_t m, int64_t n, int64_t count, const float* sums) const {
    for (int64_t pair = 0; pair < count; pair += 2 * kStripColumns) {
      const int64_t first = (n + pair) / 2;
      for_vectors(smaller(kStripColumns, p.N - first), [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        const float* at = sums + pair + i;
        finish(m, first + i, left, mul(silu(load_some(at, left)), load_some(at + kStripColumns, left)));
      });
    }
  }
  LYNX_INLINE void finish(int64_t m, int64_t n, int64_t left, Vec value) const {
    if (p.residual != nullptr) {
      const auto* residual = static_cast<const T*>(p.residual) + m * p.residual_stride + n;
      value = fma(set1(p.scale), value, load_some(residual, left));
    } else if (p.scale != 1.0f) {
      value = mul(set1(p.scale), value);
    }
    store_some(static_cast<T*>(p.y) + m * p.y_stride + n, value, left);
  }
};

}  // namespace lynx::LYNX_ISA
