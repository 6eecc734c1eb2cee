// Functions that are the same text for every vector width: exp, SiLU, GELU, and bfloat16 one number at a time.
#pragma once
#include <cstdint>

#include "bf16.h"
#include "isa.h"
#if defined(__AVX512F__)
#include "vec_avx512.h"
#else
#include "vec_avx2.h"
#endif

namespace lynx::LYNX_ISA {

/// e^x within 1 ulp. exp(-inf) = 0, exp(inf) = inf, NaN stays NaN; results below 2^-126 are denormal, not zero.
/// x = n ln2 + r with |r| <= ln2 / 2, ln2 in two parts (Cody and Waite); e^r by Cephes' polynomial expf.
LYNX_INLINE Vec vexp(Vec x) {
  // The bounds are first: vmax and vmin give their second operand where one is NaN.
  const Vec in_range = vmin(set1(89.0f), vmax(set1(-104.0f), x));
  const Vec n = round_nearest(mul(in_range, set1(1.44269504088896341f)));
  const Vec r = fnma(n, set1(-2.12194440e-4f), fnma(n, set1(0.693359375f), in_range));
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  const Vec e_r = add(fma(mul(r, r), p, r), set1(1.0f));
  return scale_by_power_of_two(e_r, n);
}

/// x / (1 + e^-x). silu(-inf) is NaN, as -inf * 0 in torch; NaN stays NaN.
LYNX_INLINE Vec silu(Vec x) { return div(x, add(set1(1.0f), vexp(sub(zero(), x)))); }

/// x Phi(x), Phi the normal distribution function: torch's GELU by erf. gelu(-inf) is NaN, as -inf * 0 in torch.
/// Phi(-|x|) = e^(-x^2 / 2) q(u), u = 2.5 / (1 + 0.23 |x|) - 1.5, so the tail keeps its relative accuracy; q is a
/// least-squares fit of degree 8, off by 5e-8 of its value at most. On [-9, 9] the error is 4e-7; torch's is 1.2e-6.
LYNX_INLINE Vec gelu(Vec x) {
  const Vec size = vmax(x, sub(zero(), x));
  const Vec u = fma(set1(2.5f), div(set1(1.0f), fma(set1(0.23f), size, set1(1.0f))), set1(-1.5f));
  Vec q = set1(-5.142340888e-05f);
  q = fma(q, u, set1(-1.412783022e-04f));
  q = fma(q, u, set1(6.171037676e-04f));
  q = fma(q, u, set1(5.597226322e-03f));
  q = fma(q, u, set1(2.184413746e-02f));
  q = fma(q, u, set1(5.759529024e-02f));
  q = fma(q, u, set1(1.139216498e-01f));
  q = fma(q, u, set1(1.755167097e-01f));
  q = fma(q, u, set1(1.251005530e-01f));
  const Vec tail = mul(q, vexp(mul(mul(set1(-0.5f), size), size)));
  return mul(x, where_negative(x, tail, sub(set1(1.0f), tail)));
}

LYNX_INLINE float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
LYNX_INLINE float to_float(float x) { return x; }

/// Round to nearest, ties to even; a NaN becomes the quiet NaN 0x7fc0.
LYNX_INLINE bf16 to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if (x != x) return bf16{0x7fc0};
  return bf16{static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace lynx::LYNX_ISA
