// A linear's weight as kernels get it: [N, K], or packed (lynx_engine/packing.py) in strips of 16 rows,
// [N / 16][K][16] float32 or [N / 16][K / 2][16][2] bfloat16 with K up to a multiple of 32.
#pragma once

namespace lynx {

struct Weight {
  const void* data;
  bool packed;
};

}  // namespace lynx
