// linear on every instruction set: rows, panels and the product are csrc/cpu/gemm.h's, the epilogue is csrc/cpu/linear_epilogue.h's.
#pragma once
#include "cpu/gemm_panels.h"
#include "cpu/gemm_rows.h"
#include "cpu/linear_epilogue.h"
#include "params.h"

namespace lynx::LYNX_ISA {
namespace {

using namespace lynx::linear;

template <class T, class Source>
LYNX_INLINE void forward_from(const ForwardParams& p, const Source& source) {
  const auto* weight = static_cast<const T*>(p.weight.data);
  const LinearEpilogue<T> epilogue{p};
  if (p.weight.packed) {
    const int64_t columns = p.activation == Activation::gated_silu ? 2 * round_up(p.N, kStripColumns) : p.N;
    product(p.M, columns, p.K, source, PackedB<T>{weight, p.K}, p.lanes, p.workspace, epilogue);
  } else {
    product(p.M, p.N, p.K, source, TransposedB<T>{weight, p.K, p.N, p.K}, p.lanes, p.workspace, epilogue);
  }
}

template <class T>
void forward_as(const ForwardParams& p) {
  const auto* x = static_cast<const T*>(p.x);
  const auto *norm_weight = static_cast<const T*>(p.norm_weight), *norm_bias = static_cast<const T*>(p.norm_bias);
  if (norm_weight == nullptr) return forward_from<T>(p, PlainRows<T>{x, p.x_stride, p.K});
  forward_from<T>(p, NormRows<T>{x, p.x_stride, p.K, norm_weight, norm_bias, p.eps});
}

template <class T>
struct Store {
  T* out;
  int64_t stride;

  LYNX_INLINE void operator()(int64_t m, int64_t n, int64_t count, const float* sums) const {
    for_vectors(count, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_some(out + m * stride + n + i, load_some(sums + i, left), left);
    });
  }
};

template <class T>
void input_gradient_as(const InputGradientParams& p) {
  const PlainRows<T> dy{static_cast<const T*>(p.dy), p.dy_stride, p.N};
  const auto* weight = static_cast<const T*>(p.weight.data);
  const Store<T> store{static_cast<T*>(p.dx), p.K};
  if (p.weight.packed) {
    product(p.M, p.K, p.N, dy, PackedTransposedB<T>{weight, p.K, p.N}, p.lanes, p.workspace, store);
  } else {
    product(p.M, p.K, p.N, dy, PlainB<T>{weight, p.K, p.K, p.N}, p.lanes, p.workspace, store);
  }
}

template <class T>
void weight_gradient_as(const WeightGradientParams& p) {
  const TransposedRows<T> dy{static_cast<const T*>(p.dy), p.dy_stride, p.M};
  const PlainB<T> x{static_cast<const T*>(p.x), p.x_stride, p.K, p.M};
  product(p.N, p.K, p.M, dy, x, p.lanes, p.workspace, Store<T>{static_cast<T*>(p.dw), p.K});
}

#if defined(LYNX_HAS_TILES) || defined(__AVX512BF16__)

constexpr uint32_t kTypes = dtype_set(DType::bf16);
void forward(const ForwardParams& p) { forward_as<bf16>(p); }
void input_gradient(const InputGradientParams& p) { input_gradient_as<bf16>(p); }
void weight_gradient(const WeightGradientParams& p) { weight_gradient_as<bf16>(p); }

#else

constexpr uint32_t kTypes = dtype_set(DType::f32, DType::bf16);
void forward(const ForwardParams& p) { p.dtype == DType::f32 ? forward_as<float>(p) : forward_as<bf16>(p); }
void input_gradient(const InputGradientParams& p) {
  p.dtype == DType::f32 ? input_gradient_as<float>(p) : input_gradient_as<bf16>(p);
}
void weight_gradient(const WeightGradientParams& p) {
  p.dtype == DType::f32 ? weight_gradient_as<float>(p) : weight_gradient_as<bf16>(p);
}

#endif

}  // namespace

extern const linear::Kernels linear_kernels;
const linear::Kernels linear_kernels{kTypes, product_workspace, forward, input_gradient, weight_gradient};

}  // namespace lynx::LYNX_ISA
