// A word of an operand is a float32 number, from tensors of any element type.
#pragma once
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

struct FloatMath {
  using Operand = float;
  static constexpr int64_t kChunk = 16;  // numbers of the head dim summed from zero at a time: short chains round less
  static constexpr int64_t kKeyChunk = 16;  // and of the keys

  LYNX_INLINE static Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }

  LYNX_INLINE static void put(float* p, Vec x) { store(p, x); }

  /// The first n numbers at p; zeros beyond.
  template <class T>
  LYNX_INLINE static Vec load_words(const T* p, int64_t n) {
    return n > 0 ? load_some(p, n) : zero();
  }

  template <class T>
  LYNX_INLINE static Vec load_full(const T* p) {
    return load(p);
  }

  /// Watches for NaN and infinity: 0 * x tells, and keeps telling when summed.
  struct Finite {
    Vec sum = zero();
    LYNX_INLINE bool holds() const { return hsum(sum) == 0.0f; }
  };

  /// A vector of words from the float32 rows at p; `rows` of them are left.
  LYNX_INLINE static Vec word_of(const float* p, int64_t, int64_t) { return load(p); }

  /// The first n numbers of row `step` from column `first` on.
  template <class Source>
  LYNX_INLINE static void load_depth(Vec (&words)[1], const Source& src, int64_t step, int64_t, int64_t first,
                                     int64_t n) {
    words[0] = load_words(src[step] + first, n);
  }
  LYNX_INLINE static void watch(const Vec (&words)[1], Finite& finite) {
    finite.sum = fma(words[0], zero(), finite.sum);
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
