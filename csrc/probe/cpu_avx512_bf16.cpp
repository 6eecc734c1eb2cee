#include "fma.h"

namespace lynx::avx512_bf16 {
namespace {

/// Pairs of bfloat16 products added to float32.
double dot_bfloat16(int64_t rounds) {
  __m512 sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_ps(1.0f + i);
  const auto ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], ones, ones);
  }
  __m512 all = _mm512_setzero_ps();
  for (int i = 0; i < kChains; ++i) all = _mm512_add_ps(all, sums[i]);
  volatile float kept = _mm512_reduce_add_ps(all);
  (void)kept;
  return 4.0 * 16 * kChains * static_cast<double>(rounds);
}

/// Quadruples of uint8 x int8 products added to int32.
double dot_int8(int64_t rounds) {
  __m512i sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i ones = _mm512_set1_epi8(1);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], ones, ones);
  }
  __m512i all = _mm512_setzero_si512();
  for (int i = 0; i < kChains; ++i) all = _mm512_add_epi32(all, sums[i]);
  volatile int kept = _mm512_reduce_add_epi32(all);
  (void)kept;
  return 8.0 * 16 * kChains * static_cast<double>(rounds);
}

bool runs_here() { return cpu_features().avx512_bf16; }

constexpr probe::Peak kPeaks[] = {{"bfloat16", runs_here, dot_bfloat16}, {"int8", runs_here, dot_int8}};

}  // namespace

extern const probe::Peaks probe_peaks{kPeaks, kPeaks + 2};

}  // namespace lynx::avx512_bf16
