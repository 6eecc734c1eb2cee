// A weight as codes with scales: the arithmetic of packing.py, operation by operation, and so the same bits.
//
// A lane is a row of the weight. Sums run over k in its order, without fused multiplications, so every instruction set and
// torch agree. For 4 bits a number is divided by a scale and its level found eleven times: by halving a table in a register.
#pragma once
#include "cpu/loops.h"
#include "cpu/vec_transpose.h"
#include "dot.h"

namespace lynx::LYNX_ISA {
namespace {

using quantized_linear::kMaxBlock;
using quantized_linear::QuantizeParams;

/// x in the lanes where a < b, else y.
LYNX_INLINE Vec where_less(Vec a, Vec b, Vec x, Vec y) {
#if defined(__AVX512F__)
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), x);
#else
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
#endif
}
/// What numbers are divided by: a scale of 0 has numbers of 0 only.
LYNX_INLINE Vec divisor(Vec scale) { return add(scale, sub(set1(1.0f), zero_where_equal(scale, zero(), set1(1.0f)))); }
LYNX_INLINE Vec rounded_bf16(Vec a) { return widen_bf16(narrow_bf16(a)); }
LYNX_INLINE Vec magnitude(Vec a) { return vmax(a, sub(zero(), a)); }

#if defined(__AVX512F__)

LYNX_INLINE Ints shift_left(Ints a, int count) { return _mm512_slli_epi32(a, static_cast<unsigned>(count)); }

/// The sixteen levels and the fifteen middles between neighbours; place(v) counts the middles below v.
class Levels {
 public:
  explicit LYNX_INLINE Levels(const float* levels, const float* middles)
      : levels_(load(levels)), middle_(set1(middles[7])) {
    alignas(64) float beyond[16];
    constexpr int kAhead[3] = {3, 1, 0};
    for (int t = 0; t < 3; ++t) {
      for (int i = 0; i < 16; ++i) beyond[i] = i + kAhead[t] < 15 ? middles[i + kAhead[t]] : 0.0f;
      ahead_[t] = load(beyond);
    }
  }
  LYNX_INLINE Ints place(Vec v) const {
    Ints found = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(v, middle_, _CMP_GT_OQ), set1_int(8));
#pragma GCC unroll 3
    for (int t = 0; t < 3; ++t) {
      const __mmask16 above = _mm512_cmp_ps_mask(v, _mm512_permutexvar_ps(found, ahead_[t]), _CMP_GT_OQ);
      found = _mm512_mask_add_epi32(found, above, found, set1_int(4 >> t));
    }
    return found;
  }
  LYNX_INLINE Vec level(Ints place) const { return _mm512_permutexvar_ps(place, levels_); }

 private:
  Vec levels_, middle_, ahead_[3];
};

#else

LYNX_INLINE Ints shift_left(Ints a, int count) { return _mm256_slli_epi32(a, count); }

class Levels {
 public:
  explicit LYNX_INLINE Levels(const float* levels, const float* middles)
      : middles_(middles), low_(load(levels)), high_(load(levels + 8)) {}
  LYNX_INLINE Ints place(Vec v) const {
    Ints found = set1_int(0);
#pragma GCC unroll 15
    for (int i = 0; i < 15; ++i) {
      found = _mm256_sub_epi32(found, _mm256_castps_si256(_mm256_cmp_ps(v, set1(middles_[i]), _CMP_GT_OQ)));
    }
    return found;
  }
  LYNX_INLINE Vec level(Ints place) const {
    const Vec upper = _mm256_castsi256_ps(_mm256_slli_epi32(place, 28));  // bit 3 of the place as a sign
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low_, place), _mm256_permutevar8x32_ps(high_, place), upper);
  }

 private:
  const float* middles_;
  Vec low_, high_;
};

#endif

template <class T>
class Quantizer {
 public:
  explicit Quantizer(const QuantizeParams& p) : p_(p) {
    for (int i = 0; i < 16; ++i)
      levels_[i] = static_cast<float>(quantized_linear::kCodebook[i] - quantized_linear::kZero);
    for (int i = 0; i < 15; ++i) middles_[i] = (levels_[i] + levels_[i + 1]) / 2;
  }

  void strip(int64_t s) const {
    const int64_t groups = p_.depth / p_.group, block = p_.group < kMaxBlock ? p_.group : kMaxBlock;
    const Levels levels(levels_, middles_);
    alignas(64) float numbers[kMaxBlock * kWidth];
    for (int64_t n = 0; n < 16; n += kWidth) {
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * p_.group, end = begin + p_.group;
        bf16* scales = static_cast<bf16*>(p_.scales) + (s * groups + g) * 16 + n;
        if (p_.nibbles) {
          fill(s * 16 + n, begin, p_.group, numbers);
          const Vec scale = searched(levels, numbers);
          store(scales, scale);
          put_nibbles(levels, numbers, divisor(scale), p_.codes + (s * p_.depth + begin) * 8 + 4 * n);
        } else {
          const Vec scale = rounded_bf16(div(largest_of(s * 16 + n, begin, end), set1(127.0f)));
          store(scales, scale);
          for (int64_t k = begin; k < end; k += block) {
            fill(s * 16 + n, k, block, numbers);
            put_bytes(numbers, block, divisor(scale), p_.codes + (s * p_.depth + k) * 16 + 4 * n);
          }
        }
      }
    }
  }

 private:
  LYNX_INLINE const T* row(int64_t n) const { return static_cast<const T*>(p_.weight) + n * p_.stride; }

  /// numbers[k][row] of the rows n .. n + kWidth and the values k .. k + count.
  LYNX_INLINE void fill(int64_t n, int64_t k, int64_t count, float* numbers) const {
    for (int64_t i = 0; i < count; i += kWidth) {
      const int64_t left = p_.K - k - i;
      Vec square[kWidth];
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j)
        square[j] = n + j < p_.N && left > 0 ? load_some(row(n + j) + k + i, left) : zero();
      transpose_vectors(square);
#pragma GCC unroll 16
      for (int j = 0; j < kWidth; ++j) store(numbers + (i + j) * kWidth, square[j]);
    }
  }
  LYNX_INLINE Vec largest_of(int64_t n, int64_t begin, int64_t end) const {
    alignas(64) float found[kWidth];
    for (int64_t j = 0; j < kWidth; ++j) {
      Vec largest = zero();
      const int64_t count = (end < p_.K ? end : p_.K) - begin;
      if (n + j < p_.N) {
        for_vectors(count, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
          largest = vmax(largest, magnitude(load_some(row(n + j) + begin + i, left)));
        });
      }
      found[j] = hmax(largest);
    }
    return load(found);
  }

  /// Of scales that put the largest magnitude at 85 to 120 % of 127, either way round, that of least square error; then
  /// that of least squares for the levels that it chose.
  LYNX_INLINE Vec searched(const Levels& levels, const float* numbers) const {
    Vec largest = zero(), best = zero(), least = zero();
    for (int64_t k = 0; k < p_.group; ++k) {
      const Vec number = load(numbers + k * kWidth);
      largest = vmax(largest, magnitude(number));
      least = add(least, mul(number, number));
    }
    for (const double part : quantized_linear::kSearched) {
      const Vec scale = div(largest, set1(static_cast<float>(127 * part)));
      consider(levels, numbers, scale, best, least);
      consider(levels, numbers, sub(zero(), scale), best, least);
    }
    const Vec by = divisor(best);
    Vec products = zero(), squares = zero();
    for (int64_t k = 0; k < p_.group; ++k) {
      const Vec number = load(numbers + k * kWidth), level = levels.level(levels.place(div(number, by)));
      products = add(products, mul(number, level));
      squares = add(squares, mul(level, level));
    }
    consider(levels, numbers, div(products, vmax(squares, set1(1.0f))), best, least);
    return best;
  }
  LYNX_INLINE void consider(const Levels& levels, const float* numbers, Vec wanted, Vec& best, Vec& least) const {
    const Vec scale = rounded_bf16(wanted), by = divisor(scale);
    Vec error = zero();
    for (int64_t k = 0; k < p_.group; ++k) {
      const Vec number = load(numbers + k * kWidth), level = levels.level(levels.place(div(number, by)));
      const Vec off = sub(number, mul(level, scale));
      error = add(error, mul(off, off));
    }
    best = where_less(error, least, scale, best);
    least = where_less(error, least, error, least);
  }

  LYNX_INLINE void put_nibbles(const Levels& levels, const float* numbers, Vec by, uint8_t* out) const {
    for (int64_t k = 0; k < p_.group; k += 8, out += 64) {
      Ints line = set1_int(0);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const Ints place = levels.place(div(load(numbers + (k + i) * kWidth), by));
        line = bits_or(line, shift_left(place, i < 4 ? 8 * i : 8 * (i - 4) + 4));
      }
      store_ints(reinterpret_cast<int32_t*>(out), line);
    }
  }
  LYNX_INLINE void put_bytes(const float* numbers, int64_t count, Vec by, uint8_t* out) const {
    for (int64_t k = 0; k < count; k += 4, out += 64) {
      Ints line = set1_int(0);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const Vec number = div(load(numbers + (k + i) * kWidth), by);
        const Vec inside = vmin(vmax(number, set1(-127.0f)), set1(127.0f));
        line = bits_or(line, shift_left(add_ints(to_ints(inside), set1_int(quantized_linear::kZero)), 8 * i));
      }
      store_ints(reinterpret_cast<int32_t*>(out), line);
    }
  }

  const QuantizeParams& p_;
  alignas(64) float levels_[16], middles_[15];
};

template <class T>
void quantize_as(const QuantizeParams& p) {
  const Quantizer<T> quantizer(p);
  parallel_for((p.N + 15) / 16, [&](int64_t s, int) { quantizer.strip(s); });
}

void quantize(const QuantizeParams& p) { p.dtype == DType::f32 ? quantize_as<float>(p) : quantize_as<bf16>(p); }

}  // namespace
}  // namespace lynx::LYNX_ISA
