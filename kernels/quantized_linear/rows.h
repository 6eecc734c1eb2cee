// Rows of x as small integers, block by block of K: x = integer * scale, the largest magnitude of a block at 127.
#pragma once
#include "cpu/loops.h"
#include "dot.h"

namespace lynx::LYNX_ISA {
namespace {

/// Blocks of kQuantRows rows at most, all of nearly the same size: 72 rows are six of 12, 14 are two of 7.
LYNX_INLINE int64_t quant_blocks(int64_t rows) { return (rows + kQuantRows - 1) / kQuantRows; }
LYNX_INLINE int64_t quant_begin(int64_t index, int64_t rows) { return rows * index / quant_blocks(rows); }

/// Blocks with no larger number become zeros: 127 / x would overflow.
constexpr float kNothing = 1e-30f;

/// A block of integers as it is put down: four neighbours of one row, R rows apart.
LYNX_INLINE void put_fours(const int32_t* integers, int64_t depth, int64_t R, QuantOperand* out) {
  for (int64_t k = 0; k < depth; k += 4, out += 4 * R) {
    const int32_t* four = integers + k;
#if defined(__AVX512VNNI__)
    const QuantOperand in_order[4] = {static_cast<QuantOperand>(four[0]), static_cast<QuantOperand>(four[1]),
                                      static_cast<QuantOperand>(four[2]), static_cast<QuantOperand>(four[3])};
#else
    const QuantOperand in_order[4] = {static_cast<QuantOperand>(four[0]), static_cast<QuantOperand>(four[2]),
                                      static_cast<QuantOperand>(four[1]), static_cast<QuantOperand>(four[3])};
#endif
    __builtin_memcpy(out, in_order, sizeof in_order);
  }
}

struct QuantBlock {
  float scale;
  int32_t begin;
};

/// `count` numbers of a row, and zeros up to `depth`. A NaN or an infinity makes the scale NaN.
template <class T>
LYNX_INLINE QuantBlock quantize_block(const T* x, int64_t count, int64_t depth, int64_t R, QuantOperand* out) {
  alignas(64) int32_t integers[quantized_linear::kMaxBlock];
  Vec largest = zero(), poison = zero();
  for_vectors(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    const Vec value = load_some(x + i, n);
    largest = vmax(largest, vmax(value, sub(zero(), value)));
    poison = add(poison, sub(value, value));
  });
  const float most = hmax(largest), inverse = most > kNothing ? 127.0f / most : 0.0f;
  const Vec limit = set1(127.0f);  // a NaN becomes -127: as the least integer it would overflow the sums
  Ints total = set1_int(0);
  for_vectors(count, [&](int64_t i, int64_t n) __attribute__((always_inline)) {
    const Vec number = mul(load_some(x + i, n), set1(inverse));
    const Ints rounded = to_ints(vmin(vmax(number, sub(zero(), limit)), limit));
    total = add_ints(total, rounded);
    store_ints(integers + i, rounded);
  });
  for (int64_t i = (count + kWidth - 1) / kWidth * kWidth; i < depth; ++i) integers[i] = 0;
  put_fours(integers, depth, R, out);
  return {most / 127.0f + hsum(poison), -quantized_linear::kZero * sum_ints(total)};
}

/// Rows m .. m + R of x, a block of `out`.
template <class T>
LYNX_INLINE void quantize_rows(const T* x, int64_t stride, int64_t K, int64_t m, int64_t R, const QuantRows& out) {
  const int64_t blocks = out.depth / out.block;
  for (int64_t i = 0; i < R; ++i) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t k = b * out.block, left = K - k, at = m * blocks + b * R + i;
      QuantOperand* numbers = out.data + m * out.depth + k * R + 4 * i;
      const int64_t count = left < 0 ? 0 : left < out.block ? left : out.block;
      const QuantBlock block = quantize_block(x + i * stride + k, count, out.block, R, numbers);
      out.scales[at] = block.scale;
      out.begins[at] = block.begin;
    }
  }
}

}  // namespace
}  // namespace lynx::LYNX_ISA
