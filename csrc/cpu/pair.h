// Two vectors at once, the way to stream through rows where order does not matter.
//
// A register of bfloat16 numbers becomes two of float32 by a shift and a mask, and goes back by a shift and a blend: half
// the instructions of widening and narrowing each half by itself (`load` and `store` of vec.h), which is what limits
// elementwise work on bfloat16 that lies in the caches. `a` then holds the even elements and `b` the odd ones; of float
// rows `a` holds the first kWidth and `b` the next. A kernel that treats all lanes alike need not know.
//
//   load_pair / store_pair   kPair elements, or the first n of them: the other lanes are 0, the other elements untouched
//   rounded_as<T>            lanes as T would hold them
//   both(f, x, y ...)        {f(x.a, y.a ...), f(x.b, y.b ...)}
//   first_of<T>              lanes of the first n elements, 0 or another number elsewhere
//   sum_of                   a row's sum in an order that depends on its length alone
//
// NaN: rounding does not look for it. A NaN whose lower half is zero stays one, and those are all that arithmetic on
// bfloat16 numbers makes: what the processor makes itself is 0xffc00000, what it passes on comes from an operand.
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"
#include "vec.h"

namespace lynx::LYNX_ISA {

struct Pair {
  Vec a, b;
};
constexpr int64_t kPair = 2 * kWidth;

#if defined(__AVX512F__)

using Words = __m512i;  // kPair bfloat16 numbers

LYNX_INLINE __mmask32 word_mask(int64_t n) { return static_cast<__mmask32>((uint64_t{1} << n) - 1); }
LYNX_INLINE Words load_words(const bf16* p) { return _mm512_loadu_si512(p); }
LYNX_INLINE Words load_words(const bf16* p, int64_t n) { return _mm512_maskz_loadu_epi16(word_mask(n), p); }
LYNX_INLINE void store_words(bf16* p, Words x) { _mm512_storeu_si512(p, x); }
LYNX_INLINE void store_words(bf16* p, Words x, int64_t n) { _mm512_mask_storeu_epi16(p, word_mask(n), x); }
LYNX_INLINE Vec even_words(Words x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
LYNX_INLINE Vec odd_words(Words x) {
  return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
/// The upper halves of two vectors, in turn.
LYNX_INLINE Words merge_words(Vec even, Vec odd) {
  const __m512i shifted = _mm512_srli_epi32(_mm512_castps_si512(even), 16);
  return _mm512_mask_mov_epi16(shifted, 0xaaaaaaaa, _mm512_castps_si512(odd));
}
/// The upper half of each lane is then the nearest bfloat16, ties to even; the lower half is no matter.
LYNX_INLINE Vec carry_up(Vec x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd));
}
LYNX_INLINE Vec first_lanes(Vec x, int64_t n, Vec other) { return _mm512_mask_mov_ps(other, tail_mask(n), x); }

#else

using Words = __m256i;

LYNX_INLINE Words load_words(const bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
LYNX_INLINE Words load_words(const bf16* p, int64_t n) {
  bf16 words[kPair] = {};
  for (int64_t i = 0; i < n; ++i) words[i] = p[i];
  return load_words(words);
}
LYNX_INLINE void store_words(bf16* p, Words x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
LYNX_INLINE void store_words(bf16* p, Words x, int64_t n) {
  bf16 words[kPair];
  store_words(words, x);
  for (int64_t i = 0; i < n; ++i) p[i] = words[i];
}
LYNX_INLINE Vec even_words(Words x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
LYNX_INLINE Vec odd_words(Words x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
/// The upper halves of two vectors, in turn.
LYNX_INLINE Words merge_words(Vec even, Vec odd) {
  const __m256i shifted = _mm256_srli_epi32(_mm256_castps_si256(even), 16);
  return _mm256_blend_epi16(shifted, _mm256_castps_si256(odd), 0xaa);
}
/// The upper half of each lane is then the nearest bfloat16, ties to even; the lower half is no matter.
LYNX_INLINE Vec carry_up(Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd));
}
LYNX_INLINE Vec first_lanes(Vec x, int64_t n, Vec other) {
  return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(tail_mask(n)));
}

#endif

LYNX_INLINE int64_t at_most(int64_t n, int64_t limit) { return n < limit ? n : limit; }

LYNX_INLINE Pair load_pair(const float* p, int64_t n) {
  if (n >= kPair) return {load(p), load(p + kWidth)};
  if (n > kWidth) return {load(p), load_tail(p + kWidth, n - kWidth)};
  return {load_tail(p, n), zero()};
}
LYNX_INLINE Pair load_pair(const bf16* p, int64_t n) {
  const Words words = n >= kPair ? load_words(p) : load_words(p, n);
  return {even_words(words), odd_words(words)};
}
LYNX_INLINE void store_pair(float* p, Pair x, int64_t n) {
  if (n >= kPair) return store(p, x.a), store(p + kWidth, x.b);
  if (n <= kWidth) return store_tail(p, x.a, n);
  store(p, x.a);
  store_tail(p + kWidth, x.b, n - kWidth);
}
LYNX_INLINE void store_pair(bf16* p, Pair x, int64_t n) {
  const Words words = merge_words(carry_up(x.a), carry_up(x.b));
  n >= kPair ? store_words(p, words) : store_words(p, words, n);
}

template <class T>
LYNX_INLINE Pair rounded_as(Pair x);
template <>
LYNX_INLINE Pair rounded_as<float>(Pair x) {
  return x;
}
template <>
LYNX_INLINE Pair rounded_as<bf16>(Pair x) {
  const Words a = reinterpret_cast<Words>(carry_up(x.a)), b = reinterpret_cast<Words>(carry_up(x.b));
  return {odd_words(a), odd_words(b)};
}

/// Lanes of the first n elements of a pair of T, `other` elsewhere.
template <class T>
LYNX_INLINE Pair first_of(Pair x, int64_t n, Vec other = zero());
template <>
LYNX_INLINE Pair first_of<float>(Pair x, int64_t n, Vec other) {
  const int64_t rest = n > kWidth ? at_most(n - kWidth, kWidth) : 0;
  return {first_lanes(x.a, at_most(n, kWidth), other), first_lanes(x.b, rest, other)};
}
template <>
LYNX_INLINE Pair first_of<bf16>(Pair x, int64_t n, Vec other) {
  return {first_lanes(x.a, at_most((n + 1) / 2, kWidth), other), first_lanes(x.b, at_most(n / 2, kWidth), other)};
}

template <class F, class... Pairs>
LYNX_INLINE Pair both(const F& f, const Pairs&... pairs) {
  return {f(pairs.a...), f(pairs.b...)};
}
LYNX_INLINE Pair both(Vec x) { return {x, x}; }

/// body(i, n) at i = 0, kPair, 2 kPair ... below count; n is kPair, and in the last step what is left.
template <class Body>
LYNX_INLINE void for_pairs(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kPair <= count; i += kPair) body(i, kPair);
  if (i < count) body(i, count - i);
}

/// The sum of a row: term(i, n, sum) adds elements i .. i + n to the lanes of `sum`. Two pairs take turns, so that four
/// chains of additions hide each other's latency.
template <class Term>
LYNX_INLINE float sum_of(int64_t count, const Term& term) {
  Pair one = both(zero()), other = both(zero());
  int64_t i = 0;
  for (; i + 2 * kPair <= count; i += 2 * kPair) {
    one = term(i, kPair, one);
    other = term(i + kPair, kPair, other);
  }
  for (; i < count; i += kPair) one = term(i, at_most(count - i, kPair), one);
  return hsum(add(add(one.a, one.b), add(other.a, other.b)));
}

}  // namespace lynx::LYNX_ISA
