// The float32 vocabulary of vec.h in AVX2 and FMA: 8 lanes, float tails by maskmov, narrower tails through a buffer.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "bf16.h"
#include "isa.h"

namespace lynx::LYNX_ISA {

using Vec = __m256;
constexpr int kWidth = 8;

LYNX_INLINE __m256i tail_mask(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

LYNX_INLINE Vec zero() { return _mm256_setzero_ps(); }
LYNX_INLINE Vec set1(float x) { return _mm256_set1_ps(x); }
LYNX_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
LYNX_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
LYNX_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
LYNX_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
/// a * b + c, rounded once.
LYNX_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
/// c - a * b, rounded once.
LYNX_INLINE Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
/// 1 / a.
LYNX_INLINE Vec reciprocal(Vec a) { return div(set1(1.0f), a); }
/// 1 / a: the table of AVX2 has 11 bits, too few for bfloat16.
LYNX_INLINE Vec coarse_reciprocal(Vec a) { return div(set1(1.0f), a); }
/// a, but no further from 0 than `bound`; a NaN may become the bound.
LYNX_INLINE Vec within(Vec a, Vec bound) {
  return _mm256_min_ps(bound, _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), bound), a));
}
/// The larger lane; b where either is NaN.
LYNX_INLINE Vec vmax(Vec a, Vec b) { return _mm256_max_ps(a, b); }
/// The smaller lane; b where either is NaN.
LYNX_INLINE Vec vmin(Vec a, Vec b) { return _mm256_min_ps(a, b); }
/// x, but 0 in the lanes where a equals b.
LYNX_INLINE Vec zero_where_equal(Vec a, Vec b, Vec x) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ), x); }
/// a in the lanes where x has its sign bit set, else b.
LYNX_INLINE Vec where_negative(Vec x, Vec a, Vec b) { return _mm256_blendv_ps(b, a, x); }
LYNX_INLINE Vec round_nearest(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// a * 2^n for integral n in [-252, 254], by two exponents that are in range each; only the second step can round.
LYNX_INLINE Vec scale_by_power_of_two(Vec a, Vec n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i first = _mm256_srai_epi32(whole, 1);
  const __m256i second = _mm256_sub_epi32(whole, first);
  const __m256i bias = _mm256_set1_epi32(127);
  const Vec a_first = mul(a, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23)));
  return mul(a_first, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23)));
}

LYNX_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
LYNX_INLINE Vec load_tail(const float* p, int64_t n) { return _mm256_maskload_ps(p, tail_mask(n)); }
LYNX_INLINE void store(float* p, Vec a) { _mm256_storeu_ps(p, a); }
LYNX_INLINE void store_tail(float* p, Vec a, int64_t n) { _mm256_maskstore_ps(p, tail_mask(n), a); }

LYNX_INLINE Vec widen_bf16(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
/// Round to nearest, ties to even, denormals kept; a NaN becomes the quiet NaN 0x7fc0.
LYNX_INLINE __m128i narrow_bf16(Vec a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i upper = _mm256_srli_epi32(rounded, 16);
  const __m256i safe = _mm256_blendv_epi8(upper, _mm256_set1_epi32(0x7fc0), is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(safe), _mm256_extracti128_si256(safe, 1));
}
LYNX_INLINE Vec load(const bf16* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
LYNX_INLINE Vec load_tail(const bf16* p, int64_t n) {
  bf16 lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
LYNX_INLINE void store(bf16* p, Vec a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bf16(a)); }
LYNX_INLINE void store_tail(bf16* p, Vec a, int64_t n) {
  bf16 lanes[kWidth];
  store(lanes, a);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

LYNX_INLINE Vec load(const uint8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LYNX_INLINE Vec load_tail(const uint8_t* p, int64_t n) {
  uint8_t lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

LYNX_INLINE Vec load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
LYNX_INLINE Vec load_tail(const int8_t* p, int64_t n) {
  int8_t lanes[kWidth] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}

LYNX_INLINE float hsum(Vec a) {
  const __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 pair = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
}
/// The largest lane; which one when a lane is NaN is not defined.
LYNX_INLINE float hmax(Vec a) {
  const __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 pair = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(pair, _mm_movehdup_ps(pair)));
}

}  // namespace lynx::LYNX_ISA
