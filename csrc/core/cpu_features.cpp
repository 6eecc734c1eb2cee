#include "cpu_features.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace lynx {
namespace {

constexpr uint64_t kYmmState = 0x6;         // SSE and AVX registers
constexpr uint64_t kZmmState = 0xe6;        // and mask registers, upper halves, upper sixteen
constexpr uint64_t kTileState = 0x60000;    // TILECFG and TILEDATA
constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
constexpr int kTileData = 18;               // XFEATURE_XTILEDATA

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

bool bit(uint32_t word, int index) { return (word >> index) & 1; }

/// The states that the operating system saves (XCR0); 0 without XSAVE.
uint64_t saved_states() {
  constexpr int kOsXsave = 27;
  if (!bit(cpuid(1).ecx, kOsXsave)) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool has_all(uint64_t states, uint64_t wanted) { return (states & wanted) == wanted; }

bool tiles_permitted() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }

CpuFeatures detect() {
  const uint64_t states = saved_states();
  const Registers basic = cpuid(1);
  const Registers extended = cpuid(7);
  CpuFeatures found{};
  const bool fma = bit(basic.ecx, 12), f16c = bit(basic.ecx, 29), avx2 = bit(extended.ebx, 5);
  found.avx2 = has_all(states, kYmmState) && fma && f16c && avx2;
  const bool f = bit(extended.ebx, 16), dq = bit(extended.ebx, 17), bw = bit(extended.ebx, 30),
             vl = bit(extended.ebx, 31);
  found.avx512 = found.avx2 && has_all(states, kZmmState) && f && dq && bw && vl;
  const bool vnni = bit(extended.ecx, 11), bf16 = bit(cpuid(7, 1).eax, 5);
  found.avx512_bf16 = found.avx512 && vnni && bf16;
  const bool amx_bf16 = bit(extended.edx, 22), amx_tile = bit(extended.edx, 24);
  found.amx = found.avx512 && has_all(states, kTileState) && amx_bf16 && amx_tile && tiles_permitted();
  return found;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

}  // namespace lynx
