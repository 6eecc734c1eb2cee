#include "swiglu/params.h"

#include "counted.h"
#include "swiglu_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                      \
  namespace isa {                              \
  extern const swiglu::Kernels swiglu_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::swiglu;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t T, N;
};
constexpr Sizes kSizes[] = {{DType::bf16, 1, 512}, {DType::bf16, 3, 100}, {DType::f32, 3, 100}};

Rows rows(const Sizes& s, uint32_t seed) { return {numbers(s.dtype, s.T * s.N, 4.0f, seed), s.N}; }

Call forward(const Kernels& kernels, const Sizes& s) {
  const ForwardParams p{s.dtype, s.T, s.N, rows(s, 1), rows(s, 2), zeros(s.T * s.N * size_of(s.dtype))};
  return [&kernels, p] { kernels.forward(p); };
}

Call backward(const Kernels& kernels, const Sizes& s) {
  const int64_t bytes = s.T * s.N * size_of(s.dtype);
  const BackwardParams p{s.dtype, s.T, s.N, rows(s, 3), rows(s, 1), rows(s, 2), zeros(bytes), zeros(bytes)};
  return [&kernels, p] { kernels.backward(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    const std::string sizes =
        std::string(lynx::name(s.dtype)) + " T=" + std::to_string(s.T) + " N=" + std::to_string(s.N);
    all_calls().push_back({"swiglu", isa, "forward " + sizes, [&kernels, s] { return forward(kernels, s); }});
    if (s.T == 1) continue;
    all_calls().push_back({"swiglu", isa, "backward " + sizes, [&kernels, s] { return backward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::swiglu_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
