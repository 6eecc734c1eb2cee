// kWidth x kWidth numbers of 32 bits in registers, transposed: float32, or pairs of bfloat16.
#pragma once
#include "vec.h"

namespace lynx::LYNX_ISA {

#if defined(__AVX512F__)

/// Within each 128-bit quarter of four vectors: x[i] lane j becomes x[j] lane i.
LYNX_INLINE void transpose_quarters(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m512d ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)),
                ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
  const __m512d cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)),
                cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
  a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low));
  b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low));
  c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
  d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
}

/// The same with whole quarters as the lanes.
LYNX_INLINE void exchange_quarters(Vec& a, Vec& b, Vec& c, Vec& d) {
  constexpr int kEven = 0x88, kOdd = 0xdd;
  const Vec ab_even = _mm512_shuffle_f32x4(a, b, kEven), ab_odd = _mm512_shuffle_f32x4(a, b, kOdd);
  const Vec cd_even = _mm512_shuffle_f32x4(c, d, kEven), cd_odd = _mm512_shuffle_f32x4(c, d, kOdd);
  a = _mm512_shuffle_f32x4(ab_even, cd_even, kEven);
  b = _mm512_shuffle_f32x4(ab_odd, cd_odd, kEven);
  c = _mm512_shuffle_f32x4(ab_even, cd_even, kOdd);
  d = _mm512_shuffle_f32x4(ab_odd, cd_odd, kOdd);
}

/// x[i] lane j becomes x[j] lane i: 64 shuffles.
LYNX_INLINE void transpose_vectors(Vec (&x)[16]) {
  for (int i = 0; i < 16; i += 4) transpose_quarters(x[i], x[i + 1], x[i + 2], x[i + 3]);
  for (int i = 0; i < 4; ++i) exchange_quarters(x[i], x[i + 4], x[i + 8], x[i + 12]);
}

#else

LYNX_INLINE void transpose_halves(Vec& a, Vec& b, Vec& c, Vec& d) {
  const __m256d ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)),
                ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
  const __m256d cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)),
                cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
  a = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low));
  b = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low));
  c = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
  d = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
}

/// x[i] lane j becomes x[j] lane i: 24 shuffles.
LYNX_INLINE void transpose_vectors(Vec (&x)[8]) {
  for (int i = 0; i < 8; i += 4) transpose_halves(x[i], x[i + 1], x[i + 2], x[i + 3]);
  for (int i = 0; i < 4; ++i) {
    const Vec low = x[i], high = x[i + 4];
    x[i] = _mm256_permute2f128_ps(low, high, 0x20);
    x[i + 4] = _mm256_permute2f128_ps(low, high, 0x31);
  }
}

#endif

}  // namespace lynx::LYNX_ISA
