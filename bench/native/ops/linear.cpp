#include "linear/params.h"

#include "counted.h"
#include "linear_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                      \
  namespace isa {                              \
  extern const linear::Kernels linear_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::linear;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t M, N, K;
  bool packed;
};
// A decoded token; rows and columns that leave tails; float32. Small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, 1, 64, 128, true},
                            {DType::bf16, 17, 40, 72, true},
                            {DType::bf16, 17, 40, 72, false},
                            {DType::f32, 15, 32, 64, true}};

std::string name(const char* mode, const Sizes& s) {
  return std::string(mode) + (s.packed ? " packed " : " weight ") + lynx::name(s.dtype) + " M=" + std::to_string(s.M) +
         " N=" + std::to_string(s.N) + " K=" + std::to_string(s.K);
}

/// As many numbers as the strips have; which is which does not matter here.
Weight weight(const Sizes& s) {
  return {numbers(s.dtype, (s.N + 15) / 16 * 16 * ((s.K + 31) / 32 * 32), 0.1f, 3), s.packed};
}

Call forward(const Kernels& kernels, const Sizes& s) {
  ForwardParams p{};
  p.dtype = s.dtype, p.M = s.M, p.N = s.N, p.K = s.K, p.lanes = 1, p.scale = 1.0f;
  p.x = numbers(s.dtype, s.M * s.K, 1.0f, 1), p.x_stride = s.K, p.weight = weight(s);
  p.activation = Activation::silu, p.bias = numbers(s.dtype, s.N, 0.1f, 2);
  p.y = zeros(s.M * s.N * size_of(s.dtype)), p.y_stride = s.N;
  p.workspace = static_cast<std::byte*>(zeros(kernels.workspace(s.M, s.K, 1)));
  return [&kernels, p] { kernels.forward(p); };
}

Call input_gradient(const Kernels& kernels, const Sizes& s) {
  InputGradientParams p{};
  p.dtype = s.dtype, p.M = s.M, p.N = s.N, p.K = s.K, p.lanes = 1;
  p.dy = numbers(s.dtype, s.M * s.N, 1.0f, 4), p.dy_stride = s.N, p.weight = weight(s);
  p.dx = zeros(s.M * s.K * size_of(s.dtype));
  p.workspace = static_cast<std::byte*>(zeros(kernels.workspace(s.M, s.N, 1)));
  return [&kernels, p] { kernels.input_gradient(p); };
}

Call weight_gradient(const Kernels& kernels, const Sizes& s) {
  WeightGradientParams p{};
  p.dtype = s.dtype, p.M = s.M, p.N = s.N, p.K = s.K, p.lanes = 1;
  p.dy = numbers(s.dtype, s.M * s.N, 1.0f, 4), p.dy_stride = s.N;
  p.x = numbers(s.dtype, s.M * s.K, 1.0f, 1), p.x_stride = s.K;
  p.dw = zeros(s.N * s.K * size_of(s.dtype));
  p.workspace = static_cast<std::byte*>(zeros(kernels.workspace(s.N, s.M, 1)));
  return [&kernels, p] { kernels.weight_gradient(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    if ((kernels.dtypes & dtype_set(s.dtype)) == 0) continue;
    all_calls().push_back({"linear", isa, name("forward", s), [&kernels, s] { return forward(kernels, s); }});
    if (s.M == 1) continue;
    all_calls().push_back({"linear", isa, name("dx", s), [&kernels, s] { return input_gradient(kernels, s); }});
    if (s.packed) continue;
    all_calls().push_back({"linear", isa, name("dw", s), [&kernels, s] { return weight_gradient(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::linear_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
