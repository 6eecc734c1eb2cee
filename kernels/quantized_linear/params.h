// What bind.cpp hands a kernel: a linear's call, and its weight as codes with scales.
#pragma once
#include "core/linear_call.h"

namespace lynx::quantized_linear {

/// weight[n, k] = (byte - 128) * scale of its group of k. Strips of 16 rows n, zeros beyond the matrix:
///   bytes      [N / 16][depth / 4][16][4]
///   nibbles    [N / 16][depth / 8][16][4]: the bytes of k .. k + 3 below and k + 4 .. k + 7 above, as places in kCodebook
///   scales     [N / 16][depth / group][16] bfloat16
struct Weight {
  const uint8_t* codes;
  const void* scales;
  bool nibbles;
  int64_t depth, group;
};

/// Sixteen levels in a byte's steps: those with the least square error for groups of 32 normal numbers, each group with
/// the scale, of either sign, that suits it best (README.md). packing.py has the same table.
constexpr uint8_t kCodebook[16] = {1, 33, 53, 70, 84, 97, 109, 120, 132, 143, 155, 168, 182, 198, 218, 245};
constexpr int32_t kZero = 128;

/// Where the search for a 4-bit scale puts the largest magnitude of a group, in parts of 127. packing.py has the same.
constexpr double kSearched[5] = {0.85, 0.9375, 1.025, 1.1125, 1.2};

/// Values of k whose products with a row of x are summed as integers, under one scale of the row.
constexpr int64_t kMaxBlock = 128;

struct ForwardParams : LinearCall {
  Weight weight;
};

/// A weight [N, K], rows `stride` apart, to be laid down as codes and scales; see Weight.
struct QuantizeParams {
  DType dtype;
  const void* weight;
  int64_t stride, N, K;
  bool nibbles;
  int64_t depth, group;
  uint8_t* codes;
  void* scales;
};

/// One instruction set's way from a weight to codes.
struct Quantizers {
  uint32_t dtypes;
  void (*quantize)(const QuantizeParams&);
};

/// One way to multiply, on one instruction set.
struct Kernels {
  uint32_t dtypes;
  int64_t (*workspace)(const ForwardParams&);
  void (*forward)(const ForwardParams&);
};

}  // namespace lynx::quantized_linear
