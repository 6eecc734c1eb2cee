#include "patch_embed/params.h"

#include "counted.h"
#include "patch_embed_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                                \
  namespace isa {                                        \
  extern const patch_embed::Kernels patch_embed_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::patch_embed;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype, pixel_type;
  int64_t grid_w, patch_size, channels;
};
// Bytes as they come from a picture, and floats normalised before; small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, DType::u8, 3, 14, 20}, {DType::f32, DType::f32, 2, 7, 24}};

Call forward(const Kernels& kernels, const Sizes& s) {
  const auto [dtype, pixel_type, W, P, D] = s;
  Params p{};
  p.pixel_type = pixel_type, p.dtype = dtype, p.batch = 1, p.grid_h = 1, p.grid_w = W;
  p.patch_size = P, p.channels = D;
  p.image = numbers(pixel_type, W * P * P * 3, 1.0f, 1);
  p.stride_b = W * P * P * 3;
  const bool channels_last = pixel_type == DType::u8;
  p.stride_c = channels_last ? 1 : W * P * P, p.stride_y = channels_last ? W * P * 3 : W * P;
  p.stride_x = channels_last ? 3 : 1;
  p.normalise = channels_last;
  for (int c = 0; c < 3; ++c) p.mean[c] = 0.45f, p.std[c] = 0.27f;
  p.weight = numbers(dtype, D * 3 * P * P, 0.04f, 2), p.bias = numbers(dtype, D, 0.1f, 3);
  p.pos_embed = numbers(dtype, (1 + W) * D, 0.3f, 4), p.cls_token = numbers(dtype, D, 0.3f, 5);
  p.out = zeros((1 + W) * D * size_of(dtype));
  p.workspace = static_cast<std::byte*>(zeros(kernels.workspace(p)));
  return [&kernels, p] { kernels.run(p); };
}

std::string name(const Sizes& s) {
  return std::string("forward ") + lynx::name(s.pixel_type) + " to " + lynx::name(s.dtype) + " grid=1x" +
         std::to_string(s.grid_w) + " P=" + std::to_string(s.patch_size) + " D=" + std::to_string(s.channels);
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    if ((kernels.dtypes & dtype_set(s.dtype)) == 0) continue;
    all_calls().push_back({"patch_embed", isa, name(s), [&kernels, s] { return forward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::patch_embed_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
