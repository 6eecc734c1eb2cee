#include "cross_entropy/params.h"

#include "counted.h"
#include "cross_entropy_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                                    \
  namespace isa {                                            \
  extern const cross_entropy::Kernels cross_entropy_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::cross_entropy;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t T, V;
  float smoothing;
};
// Two blocks of a row and a tail. Small: a stepped instruction takes 10 us.
constexpr Sizes kSizes[] = {{DType::bf16, 1, 2500, 0.0f}, {DType::f32, 2, 300, 0.1f}};

Problem problem(const Sizes& s) {
  auto* labels = static_cast<int64_t*>(zeros(s.T * 8));
  for (int64_t t = 0; t < s.T; ++t) labels[t] = 7 * t;
  return {s.dtype, s.T, s.V, numbers(s.dtype, s.T * s.V, 4.0f, 1), s.V, labels, -100, s.smoothing};
}

Call forward(const Kernels& kernels, const Sizes& s) {
  const ForwardParams p{problem(s), static_cast<float*>(zeros(s.T * 4)), static_cast<SoftmaxStats*>(zeros(s.T * 8))};
  return [&kernels, p] { kernels.forward(p); };
}

Call backward(const Kernels& kernels, const Sizes& s) {
  auto* stats = static_cast<SoftmaxStats*>(zeros(s.T * 8));
  for (int64_t t = 0; t < s.T; ++t) stats[t] = {4.0f, 100.0f};
  const BackwardParams p{problem(s), stats, numbers(s.dtype, 1, 1.0f, 2),
                         false,      0.5f,  zeros(s.T * s.V * size_of(s.dtype))};
  return [&kernels, p] { kernels.backward(p); };
}

Call in_place(const Kernels& kernels, const Sizes& s) {
  const InPlaceParams p{problem(s), static_cast<float*>(zeros(s.T * 4)), 0.5f, true};
  return [&kernels, p] { kernels.in_place(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    const std::string sizes =
        std::string(lynx::name(s.dtype)) + " T=" + std::to_string(s.T) + " V=" + std::to_string(s.V);
    const char* op = "cross_entropy";
    all_calls().push_back({op, isa, "forward " + sizes, [&kernels, s] { return forward(kernels, s); }});
    all_calls().push_back({op, isa, "backward " + sizes, [&kernels, s] { return backward(kernels, s); }});
    all_calls().push_back({op, isa, "in place " + sizes, [&kernels, s] { return in_place(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::cross_entropy_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
