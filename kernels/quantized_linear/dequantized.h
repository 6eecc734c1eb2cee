// A weight of codes as a source of B for csrc/cpu/gemm.h: strips of operands, code * scale rounded to the operand's type.
#pragma once
#include "cpu/gemm_panels.h"
#include "cpu/gemm_rows.h"
#include "cpu/linear_epilogue.h"
#include "dot.h"

namespace lynx::LYNX_ISA {
namespace {

/// Four neighbours in k of kWidth columns, from the bytes of every lane.
struct ByteNumbers {
  template <int kPlace>
  LYNX_INLINE Vec number(Ints four) const {
    const Ints byte = bits_and(shift_right_ints(four, 8 * kPlace), set1_int(255));
    return to_float(add_ints(byte, set1_int(-quantized_linear::kZero)));
  }
};

#if defined(__AVX512F__)

/// Eight neighbours in k from the nibbles of every lane, by a table of 16 numbers: three instructions each.
struct NibbleNumbers {
  Vec table;

  LYNX_INLINE NibbleNumbers() {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(quantized_linear::kCodebook));
    table = to_float(add_ints(_mm512_cvtepu8_epi32(bytes), set1_int(-quantized_linear::kZero)));
  }
  template <int kPlace>
  LYNX_INLINE Vec number(Ints eight) const {
    constexpr int kShift = kPlace < 4 ? 8 * kPlace : 8 * (kPlace - 4) + 4;
    return _mm512_permutexvar_ps(shift_right_ints(eight, kShift), table);
  }
};

#endif

struct DequantizedB {
  quantized_linear::Weight weight;
  NibbleCodes nibbles;

  static constexpr int64_t kMostStrips = kGroupStrips, kFetched = 0, kDirectRows = 0;
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    for (int64_t s = 0; s < at.strips; ++s) {
      Operand* out = scratch + s * GemmScratch::kSliceElements;
      weight.nibbles ? this->fill<true>(at.first + s, at.k, at.depth, out)
                     : this->fill<false>(at.first + s, at.k, at.depth, out);
      slices[s] = out;
    }
  }

 private:
  static constexpr int64_t kNumbers = sizeof(Operand) == 2 ? 2 : 1;  // of k, side by side

  template <bool kNibbles>
  LYNX_INLINE void fill(int64_t s, int64_t k, int64_t depth, Operand* out) const {
    constexpr int64_t kLeastGroup = 32, kEightBytes = kNibbles ? 64 : 128;
    const auto* scales = static_cast<const bf16*>(weight.scales) + s * (weight.depth / weight.group) * kStripColumns;
    const uint8_t* codes = weight.codes + (s * weight.depth + k) * kStripColumns / (kNibbles ? 2 : 1);
    for (int64_t begin = 0; begin < depth; begin += kLeastGroup) {
      const bf16* group = scales + (k + begin) / weight.group * kStripColumns;
      for (int64_t n = 0; n < kStripColumns; n += kWidth) {
        const Vec scale = load(group + n);
        const int64_t end = smaller(begin + kLeastGroup, depth);
        for (int64_t i = begin; i < end; i += 8) {
          const uint8_t* eight = codes + i / 8 * kEightBytes + 4 * n;
          for (int64_t byte = 0; byte < kEightBytes; byte += 64) _mm_prefetch(eight + byte + kAheadBytes, _MM_HINT_T0);
          this->put_eight<kNibbles>(eight, scale, out + (i * kStripColumns + n * kNumbers));
        }
      }
    }
  }
  template <bool kNibbles>
  LYNX_INLINE void put_eight(const uint8_t* codes, Vec scale, Operand* out) const {
    const Ints first = load_bytes(codes);
    Operand* rest = out + 4 * kStripColumns;
    if (!kNibbles) {
      put_four<0>(ByteNumbers{}, first, scale, out);
      put_four<0>(ByteNumbers{}, load_bytes(codes + 64), scale, rest);
      return;
    }
#if defined(__AVX512F__)
    const NibbleNumbers numbers;
    put_four<0>(numbers, first, scale, out);
    put_four<4>(numbers, first, scale, rest);
#else
    Ints fours[2];
    nibbles.load(codes, fours);
    put_four<0>(ByteNumbers{}, fours[0], scale, out);
    put_four<0>(ByteNumbers{}, fours[1], scale, rest);
#endif
  }
  template <int kPlace, class Numbers>
  static LYNX_INLINE void put_four(const Numbers& from, Ints codes, Vec scale, Operand* out) {
    const Vec numbers[4] = {
        mul(from.template number<kPlace>(codes), scale), mul(from.template number<kPlace + 1>(codes), scale),
        mul(from.template number<kPlace + 2>(codes), scale), mul(from.template number<kPlace + 3>(codes), scale)};
#if defined(__AVX512BF16__) || defined(LYNX_HAS_TILES)
    _mm512_storeu_si512(out, pairs(numbers[0], numbers[1]));
    _mm512_storeu_si512(out + 2 * kStripColumns, pairs(numbers[2], numbers[3]));
#else
    for (int i = 0; i < 4; ++i) store(out + i * kStripColumns, numbers[i]);
#endif
  }
#if defined(__AVX512BF16__)
  /// Both rounded to bfloat16, side by side; numbers below 1e-38 become zero.
  static LYNX_INLINE __m512i pairs(Vec first, Vec second) {
    alignas(64) static constexpr uint16_t kTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh(second, first);
    return _mm512_permutexvar_epi16(_mm512_load_si512(kTurns), reinterpret_cast<const __m512i&>(both));
  }
#elif defined(LYNX_HAS_TILES)
  static LYNX_INLINE __m512i pairs(Vec first, Vec second) {
    return interleave(narrow_bf16(first), narrow_bf16(second));
  }
#endif
};

int64_t float_workspace(const quantized_linear::ForwardParams& p) { return product_workspace(p.M, p.K, p.lanes); }

template <class T>
void float_forward_as(const quantized_linear::ForwardParams& p) {
  const LinearCall& call = p;
  const int64_t columns = call.activation == Activation::gated_silu ? 2 * round_up(call.N, kStripColumns) : call.N;
  const PlainRows<T> source{static_cast<const T*>(call.x), call.x_stride, call.K};
  const DequantizedB b{p.weight, NibbleCodes(quantized_linear::kCodebook)};
  product(call.M, columns, call.K, source, b, call.lanes, call.workspace, LinearEpilogue<T>{call});
}

}  // namespace
}  // namespace lynx::LYNX_ISA
