// Pixels to rows of the patch matrix, a source of A for cpu/gemm.h: read, normalise, flatten as (channel, row, column).
#pragma once
#include "cpu/gemm.h"
#include "cpu/loops.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using patch_embed::Params;

LYNX_INLINE int64_t num_patches(const Params& p) { return p.grid_h * p.grid_w; }
LYNX_INLINE int64_t patch_depth(const Params& p) { return 3 * p.patch_size * p.patch_size; }

/// The patches of one call, counted through all images. (x - mean) / std is computed as it is written, every operation
/// rounded to float32: these are the numbers that the model was trained on. Bytes have 256 values: for them it is a table.
class PatchRows {
 public:
  LYNX_INLINE explicit PatchRows(const Params& p) : p_(p) {
    if (p.pixel_type != DType::u8) return;
    for (int c = 0; c < 3; ++c) {
      for (int byte = 0; byte < 256; ++byte) assign(table_[c][byte], normalise(static_cast<float>(byte) / 255.0f, c));
    }
  }

  LYNX_INLINE void fill(int64_t first, int64_t count, Operand* out, int64_t ld) const {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t b = (first + i) / num_patches(p_), n = (first + i) % num_patches(p_);
      read(b, n / p_.grid_w, n % p_.grid_w, out + i * ld);
    }
  }

 private:
  /// row[0 .. 3 * patch_size^2) = the patch at grid position (y, x) of image b.
  LYNX_INLINE void read(int64_t b, int64_t y, int64_t x, Operand* row) const {
    const int64_t corner = b * p_.stride_b + p_.patch_size * (y * p_.stride_y + x * p_.stride_x);
    for (int c = 0; c < 3; ++c) {
      for (int64_t line = 0; line < p_.patch_size; ++line, row += p_.patch_size) {
        read_line(corner + c * p_.stride_c + line * p_.stride_y, c, row);
      }
    }
  }

  LYNX_INLINE float normalise(float x, int c) const { return p_.normalise ? (x - p_.mean[c]) / p_.std[c] : x; }

  LYNX_INLINE void read_line(int64_t offset, int c, Operand* line) const {
    if (p_.pixel_type == DType::u8) {
      const uint8_t* pixels = static_cast<const uint8_t*>(p_.image) + offset;
      for (int64_t i = 0; i < p_.patch_size; ++i) line[i] = table_[c][pixels[i * p_.stride_x]];
    } else if (p_.pixel_type == DType::f32) {
      read_floats(static_cast<const float*>(p_.image) + offset, c, line);
    } else {
      read_floats(static_cast<const bf16*>(p_.image) + offset, c, line);
    }
  }

  template <class Pixel>
  LYNX_INLINE void read_floats(const Pixel* pixels, int c, Operand* line) const {
    if (p_.stride_x != 1) {
      for (int64_t i = 0; i < p_.patch_size; ++i) assign(line[i], normalise(to_float(pixels[i * p_.stride_x]), c));
      return;
    }
    for_vectors(p_.patch_size, [&](int64_t i, int64_t n) {
      const Vec x = load_some(pixels + i, n);
      store_some(line + i, p_.normalise ? div(sub(x, set1(p_.mean[c])), set1(p_.std[c])) : x, n);
    });
  }

  const Params& p_;
  Operand table_[3][256];
};

}  // namespace lynx::LYNX_ISA
