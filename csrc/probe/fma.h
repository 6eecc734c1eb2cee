// Fused multiply-adds on float32 vectors, for the instruction sets of vec.h.
#pragma once
#include "core/cpu_features.h"
#include "cpu/vec.h"
#include "probe.h"

namespace lynx::LYNX_ISA {

/// Twelve chains: two units of latency four need eight in flight, and AVX2 has sixteen registers.
constexpr int kChains = 12;

inline double fma_float32(int64_t rounds) {
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = set1(1.0f + i);
  const Vec scale = set1(0.999f), step = set1(0.001f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (int i = 0; i < kChains; ++i) sums[i] = fma(sums[i], scale, step);
  }
  Vec all = zero();
  for (int i = 0; i < kChains; ++i) all = add(all, sums[i]);
  volatile float kept = hsum(all);
  (void)kept;
  return 2.0 * kChains * kWidth * static_cast<double>(rounds);
}

}  // namespace lynx::LYNX_ISA
