// Register-bound arithmetic: the most that a processor can compute, as the ceiling that benchmarks measure against.
#pragma once
#include <cstdint>

namespace lynx::probe {

/// One kind of arithmetic of one instruction set; `run` spends `rounds` rounds on it and returns the operations done.
struct Peak {
  const char* dtype;
  bool (*runs_here)();
  double (*run)(int64_t rounds);
};

struct Peaks {
  const Peak* begin;
  const Peak* end;
};

}  // namespace lynx::probe
