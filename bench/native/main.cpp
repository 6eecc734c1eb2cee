// lynx_count: the kernels of kernels/<op>/cpu_<isa>.cpp without Python, for counting their instructions.
//
//   lynx_count list              "compiler<TAB>NAME", then a line a call: isa, op, name, "runs" or "absent", by tabs
//   lynx_count call NUMBER...    each call of that line number (0 is the first call): once to warm up, once inside
//                                lynx_counted_call, which callgrind collects
//   lynx_count step NUMBER...    the same, counted by single steps: a line a call, all and AMX instructions
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/cpu_features.h"
#include "core/parallel.h"
#include "counted.h"

extern "C" void install();  // tests/amx_trap.cpp

extern "C" __attribute__((noinline)) void lynx_counted_call(const lynx::bench::Call& call) { call(); }

namespace lynx::bench {

std::vector<Counted>& all_calls() {
  static std::vector<Counted> calls;
  return calls;
}

void* zeros(int64_t bytes) {
  const auto size = static_cast<std::size_t>(bytes + 64);
  return std::memset(::operator new(size, std::align_val_t{64}), 0, size);
}

void* numbers(DType dtype, int64_t count, float scale, uint32_t seed) {
  auto* data = static_cast<uint8_t*>(zeros(count * size_of(dtype)));
  uint32_t state = seed * 2654435761u + 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = scale * static_cast<float>(static_cast<int32_t>(state) / 2147483648.0);
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (dtype == DType::f32) std::memcpy(data + 4 * i, &bits, 4);
    if (dtype == DType::bf16) std::memcpy(data + 2 * i, reinterpret_cast<uint8_t*>(&bits) + 2, 2);
    if (dtype == DType::u8) data[i] = static_cast<uint8_t>(state >> 24);
  }
  return data;
}

namespace {

/// AMX code also runs where only AVX-512 is: its own instructions are then emulated.
bool runs(const std::string& isa) {
  const CpuFeatures& cpu = cpu_features();
  if (isa == "avx2") return cpu.avx2;
  return isa == "avx512_bf16" ? cpu.avx512_bf16 : cpu.avx512;
}

void emulate_amx_if_absent() {
  static bool installed = lynx::cpu_features().amx;
  if (!installed) install();
  installed = true;
}

int list() {
  std::printf("compiler\t%s\n", LYNX_COMPILER);
  for (const Counted& c : all_calls()) {
    std::printf("%s\t%s\t%s\t%s\n", c.isa.c_str(), c.op.c_str(), c.name.c_str(), runs(c.isa) ? "runs" : "absent");
  }
  return 0;
}

}  // namespace
}  // namespace lynx::bench

int main(int count, char** arguments) {
  using namespace lynx::bench;
  const std::string what = count > 1 ? arguments[1] : "";
  if (what == "list") return list();
  if (what != "call" && what != "step") return std::fprintf(stderr, "lynx_count: list, call or step\n"), 2;
  lynx::set_num_threads(1);
  for (int i = 2; i < count; ++i) {
    const Counted& counted = all_calls().at(std::strtoul(arguments[i], nullptr, 10));
    if (counted.isa == "amx") emulate_amx_if_absent();
    const Call call = counted.prepare();
    call();
    if (what == "step") {
      const Steps steps = stepped(call);
      std::printf("%lld %lld\n", static_cast<long long>(steps.all), static_cast<long long>(steps.tiles));
    } else {
      lynx_counted_call(call);
    }
  }
  return 0;
}
