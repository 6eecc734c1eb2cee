// Which instruction sets this processor and this operating system allow: cpuid says what exists, xgetbv what the system
// saves across a context switch, arch_prctl grants the AMX tile state.
#pragma once

namespace lynx {

struct CpuFeatures {
  bool avx2;         // AVX2 + FMA + F16C
  bool avx512;       // the above + AVX-512 F, BW, DQ, VL
  bool avx512_bf16;  // the above + AVX512_BF16, AVX512_VNNI
  bool amx;          // avx512 + AMX-TILE + AMX-BF16, with the kernel's permission to use tiles
};

/// Decided once, at the first call.
const CpuFeatures& cpu_features();

}  // namespace lynx
