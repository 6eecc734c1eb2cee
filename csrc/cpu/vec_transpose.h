// kWidth x kWidth numbers of 32 bits in registers, transposed: float32, or pairs of bfloat16.
#pragma once
#include "vec.h"

namespace lynx::LYNX_ISA {

#if defined(__AVX512F__)

/// rows[i][j] <-> rows[j][i]: within lanes of 128 bits by 32 and 64, then whole lanes by 2 and 4. 64 shuffles for 256.
LYNX_INLINE void transpose_vectors(Vec (&rows)[16]) {
  Vec t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  const auto low = [](Vec a, Vec b) __attribute__((always_inline)) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto high = [](Vec a, Vec b) __attribute__((always_inline)) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    rows[i] = low(t[i], t[i + 2]);
    rows[i + 1] = high(t[i], t[i + 2]);
    rows[i + 2] = low(t[i + 1], t[i + 3]);
    rows[i + 3] = high(t[i + 1], t[i + 3]);
  }
  // Lane l of rows[4 q + c] now holds column 4 l + c of rows 4 q .. 4 q + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const Vec a = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0x88),
              b = _mm512_shuffle_f32x4(rows[c], rows[4 + c], 0xdd);
    const Vec d = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0x88);
    const Vec e = _mm512_shuffle_f32x4(rows[8 + c], rows[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(a, d, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
    t[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) rows[i] = t[i];
}

#else

LYNX_INLINE void transpose_vectors(Vec (&rows)[8]) {
  Vec t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    rows[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    rows[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    rows[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    rows[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x20);
    t[4 + c] = _mm256_permute2f128_ps(rows[c], rows[4 + c], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) rows[i] = t[i];
}

#endif

}  // namespace lynx::LYNX_ISA
