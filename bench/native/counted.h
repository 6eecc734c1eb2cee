// What bench/native/ops/<op>.cpp hands the driver: calls of one op's kernels whose instructions are to be counted.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace lynx::bench {

using Call = std::function<void()>;

/// One call of a kernel. isa: avx2, avx512, avx512_bf16, amx, amx_emulated; name: what is called and its sizes. prepare: makes the
/// call's memory and gives the call; only where the processor runs the instruction set.
struct Counted {
  std::string op, isa, name;
  std::function<Call()> prepare;
};

/// Every ops/<op>.cpp puts its calls here before main starts.
std::vector<Counted>& all_calls();

struct Registration {
  template <class Add>
  explicit Registration(Add add) {
    add();
  }
};

/// Memory of one call, aligned to 64 bytes and kept to the end of the process.
void* zeros(int64_t bytes);
/// Numbers in [-scale, scale), the same in every process and on every machine; `seed` tells arrays apart.
void* numbers(DType dtype, int64_t count, float scale, uint32_t seed);

/// Instructions that `call` runs in the text of this program, and those of them that are AMX's.
struct Steps {
  int64_t all, tiles;
};
/// Counts one trap at a time; see step.cpp.
Steps stepped(const Call& call);

}  // namespace lynx::bench

/// The only way into a counted call: callgrind collects inside it (--toggle-collect).
extern "C" void lynx_counted_call(const lynx::bench::Call& call);
