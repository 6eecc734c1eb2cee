#include "rope/params.h"

#include "counted.h"
#include "rope_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                  \
  namespace isa {                          \
  extern const rope::Kernels rope_kernels; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::rope;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t S, q_heads, k_heads, D;
  bool cached;
};
// A decoded token that goes into a cache; heads that leave tails.
constexpr Sizes kSizes[] = {
    {DType::bf16, 1, 4, 4, 128, true}, {DType::bf16, 3, 2, 1, 22, false}, {DType::f32, 3, 2, 1, 22, false}};
constexpr int64_t kSlot = 2;

Heads heads(const Sizes& s, int64_t count, uint32_t seed) {
  return {numbers(s.dtype, s.S * count * s.D, 1.0f, seed), s.S * count * s.D, count * s.D, s.D};
}
Heads room(const Sizes& s, int64_t tokens, int64_t count) {
  return {zeros(tokens * count * s.D * size_of(s.dtype)), tokens * count * s.D, count * s.D, s.D};
}

Call rotate(const Kernels& kernels, const Sizes& s, bool inverse) {
  Params p{};
  p.dtype = s.dtype, p.inverse = inverse, p.B = 1, p.S = s.S, p.D = s.D;
  p.q_heads = s.q_heads, p.k_heads = s.k_heads, p.q = heads(s, s.q_heads, 1), p.k = heads(s, s.k_heads, 2);
  p.cos = numbers(s.dtype, s.S * s.D, 1.0f, 3), p.sin = numbers(s.dtype, s.S * s.D, 1.0f, 4);
  p.q_out = room(s, s.S, s.q_heads), p.k_out = room(s, s.S + kSlot, s.k_heads);
  if (s.cached) {
    auto* slots = static_cast<int64_t*>(zeros(s.S * 8));
    for (int64_t i = 0; i < s.S; ++i) slots[i] = i + kSlot;
    p.v = heads(s, s.k_heads, 5), p.v_out = room(s, s.S + kSlot, s.k_heads), p.places.slots = slots;
  }
  return [&kernels, p] { kernels.rotate(p); };
}

void add_all(const char* isa, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    const std::string sizes = std::string(lynx::name(s.dtype)) + " S=" + std::to_string(s.S) +
                              " Hq=" + std::to_string(s.q_heads) + " D=" + std::to_string(s.D);
    const std::string what = s.cached ? "append " : "forward ";
    all_calls().push_back({"rope", isa, what + sizes, [&kernels, s] { return rotate(kernels, s, false); }});
    if (s.cached) continue;
    all_calls().push_back({"rope", isa, "backward " + sizes, [&kernels, s] { return rotate(kernels, s, true); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa) add_all(#isa, isa::rope_kernels);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
