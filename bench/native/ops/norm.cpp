#include "norm/params.h"

#include "counted.h"
#include "norm_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                  \
  namespace isa {                          \
  extern const norm::Kernels norm_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::norm;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  bool centred, adds;
  int64_t T, D;
};
// LLaMA's and the ViT's norm, with and without a residual; rows that leave tails. Small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, false, false, 1, 512},
                            {DType::bf16, false, true, 3, 200},
                            {DType::bf16, true, false, 3, 200},
                            {DType::f32, false, false, 3, 200},
                            {DType::f32, true, true, 3, 200}};

std::string name(const char* mode, const Sizes& s) {
  return std::string(mode) + (s.centred ? " layer " : " rms ") + (s.adds ? "add " : "") + lynx::name(s.dtype) +
         " T=" + std::to_string(s.T) + " D=" + std::to_string(s.D);
}

Rows rows(const Sizes& s, uint32_t seed) { return {numbers(s.dtype, s.T * s.D, 1.0f, seed), s.D}; }

Call forward(const Kernels& kernels, const Sizes& s) {
  const int64_t bytes = s.T * s.D * size_of(s.dtype);
  ForwardParams p{};
  p.dtype = s.dtype, p.centred = s.centred, p.T = s.T, p.D = s.D, p.eps = 1e-6f, p.x = rows(s, 1);
  if (s.adds) p.residual = rows(s, 2), p.sum = zeros(bytes);
  p.weight = numbers(s.dtype, s.D, 1.0f, 3), p.bias = numbers(s.dtype, s.D, 0.1f, 4), p.y = zeros(bytes);
  return [&kernels, p] { kernels.forward(p); };
}

Call backward(const Kernels& kernels, const Sizes& s) {
  const int64_t bytes = s.D * size_of(s.dtype);
  BackwardParams p{};
  p.dtype = s.dtype, p.centred = s.centred, p.T = s.T, p.D = s.D, p.eps = 1e-6f, p.dy = rows(s, 5), p.x = rows(s, 1);
  if (s.adds) p.d_sum = rows(s, 2);
  p.weight = numbers(s.dtype, s.D, 1.0f, 3), p.dx = zeros(s.T * bytes), p.d_weight = zeros(bytes);
  if (s.centred) p.d_bias = zeros(bytes);
  p.workspace = static_cast<std::byte*>(zeros(kernels.backward_workspace(p)));
  return [&kernels, p] { kernels.backward(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    all_calls().push_back({"norm", isa, name("forward", s), [&kernels, s] { return forward(kernels, s); }});
    if (s.T == 1) continue;
    all_calls().push_back({"norm", isa, name("backward", s), [&kernels, s] { return backward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::norm_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
