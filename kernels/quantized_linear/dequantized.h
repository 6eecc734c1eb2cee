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
    // The byte as the last digits of 2^23, without a conversion.
    const Ints byte = bits_and(shift_right_ints(four, 8 * kPlace), set1_int(255));
    return sub(as_floats(bits_or(byte, set1_int(0x4b000000))), set1(8388608.0f + quantized_linear::kZero));
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
  /// Rows of x that are multiplied by numbers as they are made, in registers; for more, slices of numbers lie in L2.
  static constexpr int64_t kMostDirect = kWidth / 2;
  LYNX_INLINE const char* following(const Step&, int64_t) const { return nullptr; }
  LYNX_INLINE void prepare(const Step& at, Operand* scratch, const Operand** slices) const {
    for (int64_t s = 0; s < at.strips; ++s) {
      Operand* out = scratch + s * GemmScratch::kSliceElements;
      weight.nibbles ? this->fill<true>(at.first + s, at.k, at.depth, out)
                     : this->fill<false>(at.first + s, at.k, at.depth, out);
      slices[s] = out;
    }
  }

  /// sums[m][0 .. 16 S) = the rows times the strips from `first` on, the last one again where there are less than S. As
  /// gemm.h sums: in blocks of kDepth, each in the order of k.
  template <int S>
  LYNX_INLINE void dot_few(const Rows& a, int64_t first, int64_t end, float* sums, int64_t ld) const {
#define LYNX_ROWS(R)                                                                                         \
  case R:                                                                                                    \
    if constexpr (R <= kMostDirect && S == quant_strips(R)) {                                                \
      weight.nibbles ? dot<R, S, true>(a, first, end, sums, ld) : dot<R, S, false>(a, first, end, sums, ld); \
    }                                                                                                        \
    return;
    switch (a.M) {
      LYNX_ROWS(1)
      LYNX_ROWS(2)
      LYNX_ROWS(3)
      LYNX_ROWS(4)
      LYNX_ROWS(5)
      LYNX_ROWS(6)
      LYNX_ROWS(7)
      LYNX_ROWS(8)
    }
#undef LYNX_ROWS
  }

 private:
  static constexpr int64_t kNumbers = sizeof(Operand) == 2 ? 2 : 1;  // of k, side by side
  static constexpr int64_t kLeastGroup = 32;

  template <int R, int S, bool kNibbles>
  __attribute__((noinline)) void dot(const Rows& a, int64_t first, int64_t end, float* sums, int64_t ld) const {
    constexpr int64_t kBytes = kNibbles ? 8 : 16;  // a value of k, of a strip
    constexpr int kParts = 16 / kWidth, kVectors = S * kParts;
    const int64_t strip_bytes = weight.depth * kBytes, strip_scales = weight.depth / weight.group * kStripColumns;
    const DequantizedB self = *this;
    const uint8_t* codes[S];
    const bf16* scales[S];
    for (int i = 0; i < S; ++i) {
      const int64_t s = smaller(first + i, end - 1);
      codes[i] = weight.codes + s * strip_bytes;
      scales[i] = static_cast<const bf16*>(weight.scales) + s * strip_scales;
    }
    for (int64_t block = 0; block < a.K; block += kDepth) {
      const int64_t last = smaller(block + kDepth, round_up(a.K, 8));
      Vec sum[R][kVectors];
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] = zero();
      }
      for (int64_t k = block; k < last; k += kLeastGroup) {
        const bool ending = (weight.depth - k) * kBytes <= kAheadBytes;
        const int64_t ahead = kAheadBytes + (ending ? (S - 1) * strip_bytes : 0),
                      group = k / self.weight.group * kStripColumns;
        const int64_t coming =
            kAheadBytes / kBytes / self.weight.group * kStripColumns + (ending ? (S - 1) * strip_scales : 0);
        Vec scale[kVectors];
        for (int v = 0; v < kVectors; ++v) {
          if (v % kParts == 0) _mm_prefetch(scales[v / kParts] + group + coming, _MM_HINT_T0);
          scale[v] = load(scales[v / kParts] + group + v % kParts * kWidth);
        }
        for (int64_t i = k; i < smaller(k + kLeastGroup, last); i += 8) {
          const Operand* x = a.data + i;
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            const uint8_t* eight = codes[v / kParts] + i * kBytes + v % kParts * 4 * kWidth;
            for (int64_t byte = 0; v % kParts == 0 && byte < 8 * kBytes; byte += 64) {
              _mm_prefetch(eight + byte + ahead, _MM_HINT_T0);
            }
            self.eight<kNibbles>(eight, scale[v], [&](int64_t j, Vec numbers) __attribute__((always_inline)) {
#pragma GCC unroll 8
              for (int r = 0; r < R; ++r) {
                sum[r][v] = multiply_add(broadcast(x + r * a.ld + j * kNumbers), numbers, sum[r][v]);
              }
            });
          }
        }
      }
      for (int r = 0; r < R; ++r) {
        for (int v = 0; v < kVectors; ++v) {
          float* out = sums + r * ld + v * kWidth;
          store(out, block == 0 ? sum[r][v] : add(load(out), sum[r][v]));
        }
      }
    }
  }
  template <bool kNibbles>
  LYNX_INLINE void fill(int64_t s, int64_t k, int64_t depth, Operand* out) const {
    constexpr int64_t kEightBytes = kNibbles ? 64 : 128;
    const auto* scales = static_cast<const bf16*>(weight.scales) + s * (weight.depth / weight.group) * kStripColumns;
    const uint8_t* codes = weight.codes + (s * weight.depth + k) * kStripColumns / (kNibbles ? 2 : 1);
    for (int64_t begin = 0; begin < depth; begin += kLeastGroup) {
      const bf16* group = scales + (k + begin) / weight.group * kStripColumns;
      for (int64_t n = 0; n < kStripColumns; n += kWidth) {
        const Vec scale = load(group + n);
        const int64_t end = smaller(begin + kLeastGroup, depth);
        for (int64_t i = begin; i < end; i += 8) {
          const uint8_t* at = codes + i / 8 * kEightBytes + 4 * n;
          for (int64_t byte = 0; byte < kEightBytes; byte += 64) _mm_prefetch(at + byte + kAheadBytes, _MM_HINT_T0);
          Operand* put = out + (i * kStripColumns + n * kNumbers);
          this->eight<kNibbles>(at, scale, [&](int64_t j, Vec numbers) __attribute__((always_inline)) {
            __builtin_memcpy(put + j * kNumbers * kStripColumns, &numbers, sizeof numbers);
          });
        }
      }
    }
  }
  /// body(j, numbers): vectors of operands of kWidth columns, from eight values of k.
  template <bool kNibbles, class Body>
  LYNX_INLINE void eight(const uint8_t* codes, Vec scale, const Body& body) const {
    const Ints first = load_bytes(codes);
    if (!kNibbles) {
      four<0>(ByteNumbers{}, first, scale, 0, body);
      four<0>(ByteNumbers{}, load_bytes(codes + 64), scale, 4 / kNumbers, body);
      return;
    }
#if defined(__AVX512F__)
    const NibbleNumbers numbers;
    four<0>(numbers, first, scale, 0, body);
    four<4>(numbers, first, scale, 4 / kNumbers, body);
#else
    Ints fours[2];
    nibbles.load(codes, fours);
    four<0>(ByteNumbers{}, fours[0], scale, 0, body);
    four<0>(ByteNumbers{}, fours[1], scale, 4 / kNumbers, body);
#endif
  }
  template <int kPlace, class Numbers, class Body>
  static LYNX_INLINE void four(const Numbers& from, Ints codes, Vec scale, int64_t j, const Body& body) {
    const Vec numbers[4] = {
        mul(from.template number<kPlace>(codes), scale), mul(from.template number<kPlace + 1>(codes), scale),
        mul(from.template number<kPlace + 2>(codes), scale), mul(from.template number<kPlace + 3>(codes), scale)};
#if defined(__AVX512BF16__) || defined(LYNX_HAS_TILES)
    body(j, pairs(numbers[0], numbers[1]));
    body(j + 1, pairs(numbers[2], numbers[3]));
#else
    for (int i = 0; i < 4; ++i) body(j + i, numbers[i]);
#endif
  }
#if defined(__AVX512BF16__)
  /// Both rounded to bfloat16, side by side; numbers below 1e-38 become zero.
  static LYNX_INLINE Vec pairs(Vec first, Vec second) {
    alignas(64) static constexpr uint16_t kTurns[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh(second, first);
    const __m512i turned = _mm512_permutexvar_epi16(_mm512_load_si512(kTurns), reinterpret_cast<const __m512i&>(both));
    return _mm512_castsi512_ps(turned);
  }
#elif defined(LYNX_HAS_TILES)
  static LYNX_INLINE Vec pairs(Vec first, Vec second) {
    return _mm512_castsi512_ps(interleave(narrow_bf16(first), narrow_bf16(second)));
  }
#endif
};

int64_t float_workspace(const quantized_linear::ForwardParams& p) { return product_workspace(p.M, p.K, p.lanes); }

/// Few rows: a panel of strips a task, and no slices.
template <int S, class Source, class Epilogue>
LYNX_INLINE void few_rows(const LinearCall& call, const Source& source, const DequantizedB& b, int64_t columns,
                          const Epilogue& epilogue) {
  Arena arena(call.workspace);
  const Rows rows{arena.take<Operand>(Rows::elements(call.M, call.K)), Rows::distance(call.K), call.M, call.K};
  const GemmScratch scratch{arena.take<std::byte>(0), chunk_rows(call.M), call.lanes};
  fill_rows(source, 0, rows);
  constexpr int64_t kStrips = S < 2 ? 2 : S, kColumns = kStrips * kStripColumns;  // a gated epilogue pairs neighbours
  const int64_t strips = (columns + kStripColumns - 1) / kStripColumns;
  const auto task = [&](int64_t index, int worker) {
    const int64_t begin = index * kStrips, end = smaller(begin + kStrips, strips);
    float* sums = scratch.sums(worker);
    for (int64_t s = begin; s < end; s += S) b.dot_few<S>(rows, s, end, sums + (s - begin) * kStripColumns, kColumns);
    const int64_t n = begin * kStripColumns, count = smaller(columns - n, (end - begin) * kStripColumns);
    for (int64_t m = 0; m < call.M; ++m) epilogue(m, n, count, sums + m * kColumns);
  };
  parallel_for((strips + kStrips - 1) / kStrips, task, 2.0 * call.M * columns * call.K > kSerialWork);
}

template <class T>
void float_forward_as(const quantized_linear::ForwardParams& p) {
  const LinearCall& call = p;
  const int64_t columns = call.activation == Activation::gated_silu ? 2 * round_up(call.N, kStripColumns) : call.N;
  const PlainRows<T> source{static_cast<const T*>(call.x), call.x_stride, call.K};
  const DequantizedB b{p.weight, NibbleCodes(quantized_linear::kCodebook)};
  const LinearEpilogue<T> epilogue{call};
  if (call.M > DequantizedB::kMostDirect || call.K == 0) {
    product(call.M, columns, call.K, source, b, call.lanes, call.workspace, epilogue);
  } else if (call.M <= kFewRows) {
    few_rows<quant_strips(1)>(call, source, b, columns, epilogue);
  } else {
    few_rows<quant_strips(kQuantRows)>(call, source, b, columns, epilogue);
  }
}

}  // namespace
}  // namespace lynx::LYNX_ISA
