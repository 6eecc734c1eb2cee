// Pairs of bfloat16 numbers that are neighbours along the depth of a product: a 32-bit lane of what vdpbf16ps and AMX eat.
#pragma once
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

LYNX_INLINE __mmask32 first_halves(int64_t n) {
  return n >= 32 ? ~__mmask32{0} : n <= 0 ? __mmask32{0} : static_cast<__mmask32>((uint32_t{1} << n) - 1);
}

/// The first n <= 32 numbers at p; zeros beyond.
LYNX_INLINE __m512i load_halves(const bf16* p, int64_t n) { return _mm512_maskz_loadu_epi16(first_halves(n), p); }
#if defined(__AVX512BF16__)
LYNX_INLINE __m512i load_halves(const int8_t* p, int64_t n) {  // exact: 8 bits of magnitude
  const __m256i bytes = _mm256_maskz_loadu_epi8(first_halves(n), p);
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}
#endif
template <class T>
LYNX_INLINE Vec load_pairs(const T* p, int64_t n) {
  return _mm512_castsi512_ps(load_halves(p, n));
}

/// To nearest, ties to even; by the instruction where there is one, which takes denormals as zeros.
LYNX_INLINE __m256i round_to_bf16(Vec x) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(x);
#else
  return narrow_bf16(x);
#endif
}

/// Watches for NaN and infinity: all bits of an exponent set.
struct FinitePairs {
  __mmask32 found = 0;
  LYNX_INLINE void watch(Vec pairs) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    found |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(_mm512_castps_si512(pairs), exponent), exponent);
  }
  LYNX_INLINE bool holds() const { return found == 0; }
};

/// Lane i of pairs[h] = (even[16 h + i], odd[16 h + i]).
LYNX_INLINE void interleave(Vec (&pairs)[2], __m512i even, __m512i odd) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i low = _mm512_or_si512(lane, _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(32)), 16));
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  pairs[0] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, low, odd));
  pairs[1] = _mm512_castsi512_ps(_mm512_permutex2var_epi16(even, high, odd));
}

/// Pairs from the float32 rows at p and p + ld, rounded; the second is zero where only one row is left.
LYNX_INLINE Vec pairs_of(const float* p, int64_t ld, int64_t rows) {
  const __m512i even = _mm512_cvtepu16_epi32(round_to_bf16(load(p)));
  const __m512i odd = rows > 1 ? _mm512_cvtepu16_epi32(round_to_bf16(load(p + ld))) : _mm512_setzero_si512();
  return _mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
}

/// Rows 2 step and 2 step + 1 of `depth` (zeros beyond), n columns from `first` on.
template <class Source>
LYNX_INLINE void load_row_pairs(Vec (&pairs)[2], const Source& src, int64_t step, int64_t depth, int64_t first,
                                int64_t n) {
  const __m512i even = load_halves(src[2 * step] + first, n);
  const __m512i odd = 2 * step + 1 < depth ? load_halves(src[2 * step + 1] + first, n) : _mm512_setzero_si512();
  interleave(pairs, even, odd);
}

}  // namespace lynx::LYNX_ISA::prefix_attention
