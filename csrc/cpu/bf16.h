// bfloat16 in memory: the upper half of a float32. Data only, so every ISA may share it.
#pragma once
#include <cstdint>

namespace lynx {

struct bf16 {
  uint16_t bits;
};

}  // namespace lynx
