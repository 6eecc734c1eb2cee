// The float32 vocabulary of vec.h in AVX-512 (F, BW, DQ, VL): 16 lanes, tails by mask registers.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "bf16.h"
#include "isa.h"

namespace lynx::LYNX_ISA {

using Vec = __m512;
constexpr int kWidth = 16;

LYNX_INLINE __mmask16 tail_mask(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

LYNX_INLINE Vec zero() { return _mm512_setzero_ps(); }
LYNX_INLINE Vec set1(float x) { return _mm512_set1_ps(x); }
LYNX_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
LYNX_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
LYNX_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
LYNX_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
/// a * b + c, rounded once.
LYNX_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
/// c - a * b, rounded once.
LYNX_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
/// 1 / a within 1 ulp: 14 bits from a table and one step of Newton, 3 times as fast as the divider (Zen 5: 16 lanes in
/// 10 cycles). 1 / 0 and 1 / inf are as exact as the table's: the step would make them NaN.
LYNX_INLINE Vec reciprocal(Vec a) {
  const Vec guess = _mm512_rcp14_ps(a);
  const Vec error = fnma(a, guess, set1(1.0f));
  return _mm512_mask3_fmadd_ps(guess, error, guess, _mm512_cmp_ps_mask(error, error, _CMP_ORD_Q));
}
/// 1 / a within 2^-14, in one instruction; 1 for 1, 0 for infinity.
LYNX_INLINE Vec coarse_reciprocal(Vec a) { return _mm512_rcp14_ps(a); }
/// a, but no further from 0 than `bound`; a NaN may become the bound.
LYNX_INLINE Vec within(Vec a, Vec bound) { return _mm512_range_ps(a, bound, 2); }  // least magnitude, sign of a
/// The larger lane; b where either is NaN.
LYNX_INLINE Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
/// The smaller lane; b where either is NaN.
LYNX_INLINE Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
/// x, but 0 in the lanes where a equals b.
LYNX_INLINE Vec zero_where_equal(Vec a, Vec b, Vec x) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ), x);
}
/// a in the lanes where x has its sign bit set, else b.
LYNX_INLINE Vec where_negative(Vec x, Vec a, Vec b) {
  return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(x)), a);
}
LYNX_INLINE Vec round_nearest(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// a * 2^n for integral n, rounded once; overflows to infinity, underflows gradually.
LYNX_INLINE Vec scale_by_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }

LYNX_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
LYNX_INLINE Vec load_tail(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(tail_mask(n), p); }
LYNX_INLINE void store(float* p, Vec a) { _mm512_storeu_ps(p, a); }
LYNX_INLINE void store_tail(float* p, Vec a, int64_t n) { _mm512_mask_storeu_ps(p, tail_mask(n), a); }

LYNX_INLINE Vec widen_bf16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/// Round to nearest, ties to even, denormals kept (vcvtneps2bf16 would flush them); a NaN becomes the quiet NaN 0x7fc0.
LYNX_INLINE __m256i narrow_bf16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  const __m512i upper = _mm512_srli_epi32(rounded, 16);
  return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(upper, is_nan, _mm512_set1_epi32(0x7fc0)));
}
LYNX_INLINE Vec load(const bf16* p) { return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
LYNX_INLINE Vec load_tail(const bf16* p, int64_t n) { return widen_bf16(_mm256_maskz_loadu_epi16(tail_mask(n), p)); }
LYNX_INLINE void store(bf16* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(a)); }
LYNX_INLINE void store_tail(bf16* p, Vec a, int64_t n) { _mm256_mask_storeu_epi16(p, tail_mask(n), narrow_bf16(a)); }

LYNX_INLINE Vec load(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LYNX_INLINE Vec load_tail(const uint8_t* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(tail_mask(n), p)));
}

LYNX_INLINE Vec load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
LYNX_INLINE Vec load_tail(const int8_t* p, int64_t n) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(tail_mask(n), p)));
}

LYNX_INLINE float hsum(Vec a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
/// The largest lane; which one when a lane is NaN is not defined.
LYNX_INLINE float hmax(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

}  // namespace lynx::LYNX_ISA
