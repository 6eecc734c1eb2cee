// What bind.cpp hands a kernel of patch_embed: pointers with their shapes beside them. Data only.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lynx::patch_embed {

/// out[b][0] = cls_token + pos_embed[0]; out[b][1 + n] = weight @ normalise(patch n of image b) + bias + pos_embed[1 + n].
/// Parameters and out are contiguous and of type `dtype`; the image may have any strides.
struct Params {
  const void* image;  // pixel (b, c, y, x) lies at b * stride_b + c * stride_c + y * stride_y + x * stride_x elements
  DType pixel_type;   // u8, f32 or bf16
  int64_t stride_b, stride_c, stride_y, stride_x;
  int64_t batch, grid_h, grid_w;  // the grid counts patches
  int64_t patch_size;

  bool normalise;  // (x - mean) / std, where x = pixel / 255 for u8
  float mean[3], std[3];

  DType dtype;
  int64_t channels;       // D
  const void* weight;     // [D, 3, patch_size, patch_size]
  const void* bias;       // [D]
  const void* pos_embed;  // [1 + grid_h * grid_w, D]
  const void* cls_token;  // [D]
  void* out;              // [batch, 1 + grid_h * grid_w, D]
  int64_t lanes;          // threads
  std::byte* workspace;
};

/// One backend's entry points; `workspace` gives the bytes that the call needs at `params.workspace`.
struct Kernels {
  uint32_t dtypes;
  int64_t (*workspace)(const Params&);
  void (*run)(const Params&);
};

}  // namespace lynx::patch_embed
