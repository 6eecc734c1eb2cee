// The innermost step of integer.h: a block of rows times one or two strips of codes, integers within a block of K.
//
// A code is a byte, its value plus 128: vpdpbusd multiplies unsigned bytes by signed ones, four neighbours in k at a
// time, without rounding. The sums therefore begin at -128 times the sum of the row's numbers, which rows.h knows.
// Where there is no vpdpbusd, words are multiplied in pairs (vpmaddwd): the same integers, at a quarter of the rate.
#pragma once
#include "cpu/vec.h"
#include "params.h"

namespace lynx::LYNX_ISA {
namespace {

#if defined(__AVX512F__)
using Ints = __m512i;
constexpr int kQuantRows = 12, kFewRows = 4;
constexpr int quant_strips(int64_t rows) { return rows <= kFewRows ? 4 : 2; }
LYNX_INLINE Ints load_bytes(const void* p) { return _mm512_loadu_si512(p); }
LYNX_INLINE Ints set1_int(int32_t x) { return _mm512_set1_epi32(x); }
LYNX_INLINE Ints shift_right(Ints a, int count) { return _mm512_srli_epi16(a, static_cast<unsigned>(count)); }
LYNX_INLINE Ints shift_right_ints(Ints a, int count) { return _mm512_srli_epi32(a, static_cast<unsigned>(count)); }
LYNX_INLINE Ints bits_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }
LYNX_INLINE Ints bits_or(Ints a, Ints b) { return _mm512_or_si512(a, b); }
LYNX_INLINE Vec as_floats(Ints a) { return _mm512_castsi512_ps(a); }
LYNX_INLINE Ints look_up(Ints table, Ints index) { return _mm512_shuffle_epi8(table, index); }
LYNX_INLINE Ints repeat_16_bytes(const uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LYNX_INLINE Vec to_float(Ints a) { return _mm512_cvtepi32_ps(a); }
LYNX_INLINE Ints to_ints(Vec a) { return _mm512_cvtps_epi32(a); }
LYNX_INLINE Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
LYNX_INLINE void store_ints(int32_t* p, Ints a) { _mm512_storeu_si512(p, a); }
LYNX_INLINE int32_t sum_ints(Ints a) { return _mm512_reduce_add_epi32(a); }
#else
using Ints = __m256i;
constexpr int kQuantRows = 4, kFewRows = 4;
constexpr int quant_strips(int64_t) { return 1; }
LYNX_INLINE Ints load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
LYNX_INLINE Ints set1_int(int32_t x) { return _mm256_set1_epi32(x); }
LYNX_INLINE Ints shift_right(Ints a, int count) { return _mm256_srli_epi16(a, count); }
LYNX_INLINE Ints shift_right_ints(Ints a, int count) { return _mm256_srli_epi32(a, count); }
LYNX_INLINE Ints bits_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }
LYNX_INLINE Ints bits_or(Ints a, Ints b) { return _mm256_or_si256(a, b); }
LYNX_INLINE Vec as_floats(Ints a) { return _mm256_castsi256_ps(a); }
LYNX_INLINE Ints look_up(Ints table, Ints index) { return _mm256_shuffle_epi8(table, index); }
LYNX_INLINE Ints repeat_16_bytes(const uint8_t* p) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
LYNX_INLINE Vec to_float(Ints a) { return _mm256_cvtepi32_ps(a); }
LYNX_INLINE Ints to_ints(Vec a) { return _mm256_cvtps_epi32(a); }
LYNX_INLINE Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
LYNX_INLINE void store_ints(int32_t* p, Ints a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
LYNX_INLINE int32_t sum_ints(Ints a) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  const __m128i quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(quarter) + _mm_extract_epi32(quarter, 1);
}
#endif

#if defined(__AVX512VNNI__)

/// What a row is made of: its numbers as they are multiplied.
using QuantOperand = int8_t;
using Four = Ints;  // four numbers of a row, in every lane
LYNX_INLINE Four broadcast_four(const QuantOperand* p) {
  int32_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return set1_int(bits);
}
/// The columns' codes as they are multiplied.
using Columns = Ints;
LYNX_INLINE Columns columns(Ints codes) { return codes; }
/// By name: of the intrinsic, gcc 12 makes code that copies every sum to another register, at half the rate.
LYNX_INLINE Ints dot_add(Columns codes, Four numbers, Ints sum) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(numbers));
  return sum;
}

#else

/// Words, four neighbours a, b, c, d in the order a, c, b, d.
using QuantOperand = int16_t;
struct Four {
  Ints even, odd;
};
LYNX_INLINE Four broadcast_four(const QuantOperand* p) {
  int32_t bits[2];
  __builtin_memcpy(bits, p, sizeof bits);
  return {set1_int(bits[0]), set1_int(bits[1])};
}
struct Columns {
  Ints even, odd;
};
LYNX_INLINE Columns columns(Ints codes) { return {bits_and(codes, set1_int(0x00ff00ff)), shift_right(codes, 8)}; }
LYNX_INLINE Ints dot_add(const Columns& codes, const Four& numbers, Ints sum) {
#if defined(__AVX512F__)
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(codes.even, numbers.even));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(codes.odd, numbers.odd));
#else
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes.even, numbers.even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(codes.odd, numbers.odd));
#endif
}

#endif

/// Codes as bytes: four values of k of 16 columns in 64 bytes.
struct ByteCodes {
  static constexpr int64_t kFours = 1;  // fours of k in 64 bytes
  LYNX_INLINE void load(const uint8_t* p, Ints* fours) const { fours[0] = load_bytes(p); }
};

/// Codes as indices of four bits into a table of 16 bytes: values k .. k + 3 below, k + 4 .. k + 7 above.
struct NibbleCodes {
  Ints table, mask;

  static constexpr int64_t kFours = 2;
  explicit LYNX_INLINE NibbleCodes(const uint8_t* codebook)
      : table(repeat_16_bytes(codebook)), mask(set1_int(0x0f0f0f0f)) {}
  LYNX_INLINE void load(const uint8_t* p, Ints* fours) const {
    const Ints both = load_bytes(p);
    fours[0] = look_up(table, bits_and(both, mask));
    fours[1] = look_up(table, bits_and(shift_right(both, 4), mask));
  }
};

/// Rows of small integers. In a block of R rows, four neighbours in k of each row lie side by side: [depth / 4][R][4], so
/// that a step reads one run; scales and begins are [blocks][R]. `depth` and `block` count values of k.
struct QuantRows {
  QuantOperand* data;
  float* scales;    // a number is its integer times this
  int32_t* begins;  // -128 times the sum of the block's integers: what sums of products with bytes begin at
  int64_t M, depth, block;
};

/// How far ahead codes are fetched, and the scales that belong to them.
constexpr int64_t kAheadBytes = 2048;

/// Some strips: their codes and their scales, 16 of them for every `blocks_a_group` blocks of K. What lies ahead of a
/// strip's end is the strip that is read next in its place, so many bytes of codes and so many scales further on.
template <int S>
struct Panel {
  const uint8_t* codes[S];
  const bf16* scales[S];
  int64_t blocks_a_group, skipped_codes, skipped_scales;
};

/// sums[i][0 .. 16 S) (+)= rows m .. m + R, which are a block, times the panel over blocks first .. last of K.
template <int R, int S, class Codes>
__attribute__((noinline)) void dot_rows(const QuantRows& a, int64_t m, int64_t first, int64_t last, Panel<S> panel,
                                        const Codes& kind, float* sums, int64_t ld) {
  constexpr int kParts = 16 / kWidth, kVectors = S * kParts;  // vectors of a strip, and of the panel
  const int64_t blocks = a.depth / a.block, steps = a.block / (4 * Codes::kFours);
  const int64_t groups_ahead = kAheadBytes / (64 * steps * panel.blocks_a_group);
  const QuantOperand* numbers = a.data + m * a.depth + first * a.block * R;
  const float* row_scales = a.scales + m * blocks;
  const int32_t* begins = a.begins + m * blocks;
  for (int64_t b = first; b < last; ++b) {
    const bool ending = (last - b) * steps * 64 <= kAheadBytes;
    const int64_t ahead = kAheadBytes + (ending ? panel.skipped_codes : 0);
    Ints sum[R][kVectors];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] = set1_int(begins[b * R + i]);
    }
    for (int64_t s = 0; s < steps; ++s) {
      Ints fours[kVectors][Codes::kFours];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        kind.load(panel.codes[v / kParts] + v % kParts * static_cast<int64_t>(sizeof(Ints)), fours[v]);
      }
#pragma GCC unroll 4
      for (int strip = 0; strip < S; ++strip) {
        _mm_prefetch(panel.codes[strip] + ahead, _MM_HINT_T0);
        panel.codes[strip] += 64;
      }
#pragma GCC unroll 2
      for (int f = 0; f < Codes::kFours; ++f) {
        Columns read[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) read[v] = columns(fours[v][f]);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
          const Four value = broadcast_four(numbers + (f * R + i) * 4);
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) sum[i][v] = dot_add(read[v], value, sum[i][v]);
        }
      }
      numbers += 4 * Codes::kFours * R;
    }
    const int64_t group = b / panel.blocks_a_group * 16;
    const int64_t coming = group + 16 * groups_ahead + (ending ? panel.skipped_scales : 0);
    Vec scales[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if (v % kParts == 0) _mm_prefetch(panel.scales[v / kParts] + coming, _MM_HINT_T0);
      scales[v] = load(panel.scales[v / kParts] + group + v % kParts * kWidth);
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec scale = set1(row_scales[b * R + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        float* out = sums + i * ld + v * kWidth;
        store(out, fma(to_float(sum[i][v]), mul(scales[v], scale), b == 0 ? zero() : load(out)));
      }
    }
  }
}

}  // namespace
}  // namespace lynx::LYNX_ISA
