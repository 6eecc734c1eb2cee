// Rows of scores in the making: scaled and masked, turned into weights, and sums over spans of keys put together.
#pragma once
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

#if defined(__AVX512F__)
/// a in the first n lanes, b in the others.
LYNX_INLINE Vec first_lanes(int64_t n, Vec a, Vec b) {
  return _mm512_mask_mov_ps(b, tail_mask(max_of(0, min_of(n, kWidth))), a);
}
/// a where a byte of `flags` is not 0, b elsewhere.
LYNX_INLINE Vec where_set(const uint8_t* flags, Vec a, Vec b) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(flags));
  return _mm512_mask_mov_ps(b, _mm_test_epi8_mask(bytes, bytes), a);
}
#else
LYNX_INLINE Vec first_lanes(int64_t n, Vec a, Vec b) {
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(tail_mask(max_of(0, min_of(n, kWidth)))));
}
LYNX_INLINE Vec where_set(const uint8_t* flags, Vec a, Vec b) {
  const __m256i lanes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(flags)));
  return _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(lanes, _mm256_setzero_si256())));
}
#endif

/// Which keys of a span a row sees: of `present` keys the first `visible`, without those whose flag is 0.
struct Seen {
  int64_t visible, present;
  const uint8_t* flags;  // null: no holes
};

/// Scales the scores of a row and writes `lowest` over hidden ones, -inf beyond the present ones; their maximum.
/// A NaN stays where it is and does not count.
LYNX_INLINE float mask_scores(float* s, int64_t columns, const Seen& seen, float scale) {
  const Vec lowest = set1(kLowest), scale_lanes = set1(scale);
  Vec row_max = lowest;
  int64_t j = 0;
  for (; j + kWidth <= seen.visible; j += kWidth) {
    Vec x = vmax(lowest, mul(load(s + j), scale_lanes));
    if (seen.flags != nullptr) x = where_set(seen.flags + j, x, lowest);
    store(s + j, x);
    row_max = vmax(x, row_max);
  }
  for (; j < columns; j += kWidth) {
    Vec x = vmax(lowest, mul(load(s + j), scale_lanes));
    if (seen.flags != nullptr && j < seen.visible) {
      uint8_t flags[kWidth] = {};
      for (int64_t i = 0; j + i < seen.visible; ++i) flags[i] = seen.flags[j + i];
      x = where_set(flags, x, lowest);
    }
    x = first_lanes(seen.present - j, first_lanes(seen.visible - j, x, lowest), set1(-kInfinity));
    store(s + j, x);
    row_max = vmax(x, row_max);
  }
  return hmax(row_max);
}

/// e^x for x <= 0, within 2 ulp of numbers that count beside 1: a softmax needs no more. e^-inf = 0, NaN stays NaN.
/// x / ln2 = n + r with |r| <= 1/2; 2^r by a polynomial of degree 5 fitted to a relative error of 9e-8.
LYNX_INLINE Vec exp_of_negative(Vec x) {
  const Vec t = mul(vmax(set1(-110.0f), x), set1(1.44269504088896341f));
  const Vec n = round_nearest(t), r = sub(t, n);
  Vec p = set1(1.32647273e-3f);
  p = fma(p, r, set1(9.67151299e-3f));
  p = fma(p, r, set1(5.55073338e-2f));
  p = fma(p, r, set1(2.40222424e-1f));
  p = fma(p, r, set1(6.93147004e-1f));
  p = fma(p, r, set1(1.0f));
  return scale_by_power_of_two(p, n);
}

/// put(j, exp(s[j] - row_max)) for all columns; returns their sum.
template <class Put>
LYNX_INLINE float weigh(const float* s, int64_t columns, float row_max, const Put& put) {
  Vec sum = zero();
  for (int64_t j = 0; j < columns; j += kWidth) {
    const Vec p = exp_of_negative(sub(load(s + j), set1(row_max)));
    put(j, p);
    sum = add(sum, p);
  }
  return hsum(sum);
}

/// What a row has summed over some of its keys, not yet divided: sum of exp(s - max) and of exp(s - max) v.
struct Partial {
  float max, sum;
  float* o;
};

LYNX_INLINE float rescale(float old_max, float new_max) {
  return old_max == new_max ? 1.0f : hmax(exp_of_negative(set1(old_max - new_max)));
}

/// total += part.
LYNX_INLINE void merge(Partial& total, const Partial& part, int64_t dim) {
  const float new_max = total.max > part.max ? total.max : part.max;
  const float keep = rescale(total.max, new_max), take = rescale(part.max, new_max);
  total.max = new_max;
  total.sum = total.sum * keep + part.sum * take;
  const Vec keep_lanes = set1(keep), take_lanes = set1(take);
  for (int64_t d = 0; d < dim; d += kWidth) {
    store(total.o + d, fma(load(part.o + d), take_lanes, mul(load(total.o + d), keep_lanes)));
  }
}

}  // namespace lynx::LYNX_ISA::prefix_attention
