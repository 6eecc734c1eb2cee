// gemm_kernel.h on vectors: a value (or a pair) of each row of A is broadcast and meets two vectors of B.
//
// 14 rows x 32 columns in 28 of 32 registers (AVX-512), 6 x 16 in 12 of 16 (AVX2): 16 loads for 28 products, so the two
// load ports are half idle. Measured on one core of a Zen 5, random data, A and B from L2: 14 x 2 vectors 476 GFLOP/s
// in bfloat16 and 245 in float32; 12 x 2 463; 6 x 4 482 and 241, with twice the traffic from L2; 7 x 4 spills, 384.
#pragma once
#include "vec.h"

namespace lynx::LYNX_ISA {

#if defined(__AVX512BF16__)

using Operand = bf16;
constexpr int64_t kStepK = 2;

LYNX_INLINE Vec broadcast(const bf16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return _mm512_castsi512_ps(_mm512_set1_epi32(bits));
}
LYNX_INLINE Vec load_operands(const bf16* p) { return _mm512_loadu_ps(p); }
LYNX_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

#else

using Operand = float;
constexpr int64_t kStepK = 1;

LYNX_INLINE Vec broadcast(const float* p) { return set1(*p); }
LYNX_INLINE Vec load_operands(const float* p) { return load(p); }
LYNX_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

#endif

constexpr int64_t kBlockRows = kWidth == 16 ? 14 : 6;
constexpr int64_t kPanelStrips = kWidth == 16 ? 2 : 1;

/// First row of a block: 72 rows are six blocks of 12, not five of 14 and one of 2, which would wait for its sums.
LYNX_INLINE int64_t block_begin(int64_t block, int64_t blocks, int64_t rows) { return rows * block / blocks; }

/// Vectors need no configuration; see tile.h.
struct TileScope {};

/// sums[i][0..32) (16 on AVX2) (+)= a[i] times the panel over `depth` values of k.
/// Not inlined: where it was, gcc 12 spilled, and the product ran at 417 GFLOP/s instead of 470.
template <int R>
__attribute__((noinline)) void dot_rows(const Operand* a, int64_t lda, const Operand* const* strips, int64_t depth,
                                        float* sums, int64_t ld, bool first, Ahead ahead) {
  // Both vectors of an AVX2 panel lie in one strip.
  const Operand *left = strips[0], *right = kPanelStrips == 2 ? strips[1] : left + kWidth;
  Vec sum[R][2];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) sum[i][0] = sum[i][1] = zero();
  for (int64_t k = 0; k < depth; k += kStepK) {
    const Vec b0 = load_operands(left + k * 16), b1 = load_operands(right + k * 16);
    for (int s = 0; s < kPanelStrips; ++s) {
      _mm_prefetch(ahead.strips[s], _MM_HINT_T1);
      ahead.strips[s] += ahead.step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec value = broadcast(a + i * lda + k);
      sum[i][0] = multiply_add(value, b0, sum[i][0]);
      sum[i][1] = multiply_add(value, b1, sum[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    float* row = sums + i * ld;
    store(row, first ? sum[i][0] : add(load(row), sum[i][0]));
    store(row + kWidth, first ? sum[i][1] : add(load(row + kWidth), sum[i][1]));
  }
}

LYNX_INLINE void dot_block(int64_t rows, const Operand* a, int64_t lda, const Operand* const* strips, int64_t depth,
                           float* sums, int64_t ld, bool first, const Ahead& ahead) {
#define LYNX_ROWS(R) \
  case R:            \
    return dot_rows<(R <= kBlockRows ? R : 1)>(a, lda, strips, depth, sums, ld, first, ahead);
  switch (rows) {
    LYNX_ROWS(1)
    LYNX_ROWS(2)
    LYNX_ROWS(3)
    LYNX_ROWS(4)
    LYNX_ROWS(5)
    LYNX_ROWS(6)
    LYNX_ROWS(7)
    LYNX_ROWS(8)
    LYNX_ROWS(9)
    LYNX_ROWS(10)
    LYNX_ROWS(11)
    LYNX_ROWS(12)
    LYNX_ROWS(13)
    LYNX_ROWS(14)
  }
#undef LYNX_ROWS
}

}  // namespace lynx::LYNX_ISA
