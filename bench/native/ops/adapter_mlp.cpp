#include "adapter_mlp/params.h"

#include "adapter_mlp_backends.h"
#include "counted.h"

namespace lynx {

#define LYNX_DECLARE(isa)                                \
  namespace isa {                                        \
  extern const adapter_mlp::Kernels adapter_mlp_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::adapter_mlp;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t T, D, R;
};
// A decoded token; rows and widths that leave tails; float32. Small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, 1, 128, 64}, {DType::bf16, 5, 72, 40}, {DType::f32, 4, 64, 32}};

Weights weights(const Sizes& s) {
  const auto [dtype, T, D, R] = s;
  return {numbers(dtype, D, 1.0f, 1),
          numbers(dtype, D, 0.1f, 2),
          {numbers(dtype, R * D, 0.15f, 3), false},
          numbers(dtype, R, 0.1f, 4),
          {numbers(dtype, D * R, 0.2f, 5), false},
          numbers(dtype, D, 0.1f, 6),
          numbers(dtype, 1, 0.8f, 7)};
}

std::string name(const char* mode, const Sizes& s) {
  return std::string(mode) + " " + lynx::name(s.dtype) + " T=" + std::to_string(s.T) + " D=" + std::to_string(s.D) +
         " R=" + std::to_string(s.R);
}

Call forward(const Kernels& kernels, const Sizes& s) {
  const auto [dtype, T, D, R] = s;
  ForwardParams p{};
  p.dtype = dtype, p.T = T, p.D = D, p.R = R, p.eps = 1e-5f, p.lanes = 1, p.weights = weights(s);
  p.x = numbers(dtype, T * D, 1.0f, 8), p.x_stride = D;
  p.y = zeros(T * D * size_of(dtype)), p.y_stride = D;
  p.workspace = static_cast<std::byte*>(zeros(kernels.forward_workspace(p)));
  return [&kernels, p] { kernels.forward(p); };
}

Call backward(const Kernels& kernels, const Sizes& s) {
  const auto [dtype, T, D, R] = s;
  const int64_t bytes = size_of(dtype);
  BackwardParams p{};
  p.dtype = dtype, p.T = T, p.D = D, p.R = R, p.eps = 1e-5f, p.lanes = 1, p.weights = weights(s);
  p.x = numbers(dtype, T * D, 1.0f, 8), p.x_stride = D, p.pre = numbers(dtype, T * R, 1.0f, 10);
  p.dy = numbers(dtype, T * D, 1.0f, 9), p.dy_stride = D;
  p.dx = zeros(T * D * bytes);
  p.d_norm_weight = zeros(D * bytes), p.d_norm_bias = zeros(D * bytes);
  p.d_down_weight = zeros(R * D * bytes), p.d_down_bias = zeros(R * bytes);
  p.d_up_weight = zeros(D * R * bytes), p.d_up_bias = zeros(D * bytes), p.d_scaling = zeros(bytes);
  p.workspace = static_cast<std::byte*>(zeros(kernels.backward_workspace(p)));
  return [&kernels, p] { kernels.backward(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    if ((kernels.dtypes & dtype_set(s.dtype)) == 0) continue;
    all_calls().push_back({"adapter_mlp", isa, name("forward", s), [&kernels, s] { return forward(kernels, s); }});
    if (s.T == 1) continue;
    all_calls().push_back({"adapter_mlp", isa, name("backward", s), [&kernels, s] { return backward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::adapter_mlp_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
