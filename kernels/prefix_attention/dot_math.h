// A word of an operand is a pair of bfloat16 numbers, multiplied and summed in float32 by vdpbf16ps, which takes and gives
// denormals as zeros.
#pragma once
#include "pairs.h"

namespace lynx::LYNX_ISA::prefix_attention {

struct DotMath {
  using Operand = bf16;
  static constexpr int64_t kChunk = 16;                   // of the head dim: a decoded score's chains overlap
  static constexpr int64_t kKeyChunk = int64_t{1} << 40;  // one chain: its error is far below the rounding of P

  LYNX_INLINE static Vec multiply_add(Vec a, Vec b, Vec sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_castps_si512(b));
  }
  LYNX_INLINE static void put(bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_to_bf16(x)); }
  LYNX_INLINE static Vec word_of(const float* p, int64_t ld, int64_t rows) { return pairs_of(p, ld, rows); }
  template <class T>
  LYNX_INLINE static Vec load_words(const T* p, int64_t n) {
    return load_pairs(p, n);
  }
  template <class T>
  LYNX_INLINE static Vec load_full(const T* p) {
    return load_pairs(p, 32);
  }

  using Finite = FinitePairs;
  template <class Source>
  LYNX_INLINE static void load_depth(Vec (&words)[2], const Source& src, int64_t step, int64_t depth, int64_t first,
                                     int64_t n) {
    load_row_pairs(words, src, step, depth, first, n);
  }
  LYNX_INLINE static void watch(const Vec (&words)[2], Finite& finite) {
    finite.watch(words[0]), finite.watch(words[1]);
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
