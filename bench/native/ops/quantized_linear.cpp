#include "quantized_linear/params.h"

#include "counted.h"
#include "quantized_linear_backends.h"

namespace lynx {

#define LYNX_DECLARE(isa)                                                                      \
  namespace isa {                                                                              \
  extern const quantized_linear::Kernels quantized_linear_kernels, weight_only_linear_kernels; \
  extern const quantized_linear::Quantizers weight_quantizers;                                 \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using namespace lynx::quantized_linear;
using bench::all_calls, bench::Call, bench::numbers, bench::zeros;

struct Sizes {
  DType dtype;
  int64_t M, N, K;
  bool nibbles;
  int64_t group;
};
// A decoded token; enough rows for 4-bit codes to be unpacked, and tails; float32 and groups of 32.
constexpr Sizes kSizes[] = {{DType::bf16, 1, 64, 256, false, 256},
                            {DType::bf16, 1, 64, 256, true, 128},
                            {DType::bf16, 17, 40, 200, true, 128},
                            {DType::f32, 15, 32, 64, true, 32}};

std::string name(const Sizes& s) {
  return std::string(s.nibbles ? "int4 g" : "int8 g") + std::to_string(s.group) + " " + lynx::name(s.dtype) +
         " M=" + std::to_string(s.M) + " N=" + std::to_string(s.N) + " K=" + std::to_string(s.K);
}

Call forward(const Kernels& kernels, const Sizes& s) {
  ForwardParams p{};
  LinearCall& call = p;
  call.dtype = s.dtype, call.M = s.M, call.N = s.N, call.K = s.K, call.lanes = 1, call.scale = 1.0f;
  call.x = numbers(s.dtype, s.M * s.K, 1.0f, 1), call.x_stride = s.K;
  call.y = zeros(s.M * s.N * size_of(s.dtype)), call.y_stride = s.N;
  p.weight.nibbles = s.nibbles, p.weight.group = s.group, p.weight.depth = (s.K + s.group - 1) / s.group * s.group;
  const int64_t rows = (s.N + 15) / 16 * 16, codes = rows * p.weight.depth / (s.nibbles ? 2 : 1);
  p.weight.codes = static_cast<const uint8_t*>(numbers(DType::bf16, codes / 2, 1.0f, 2));
  p.weight.scales = numbers(DType::bf16, rows * p.weight.depth / s.group, 0.01f, 3);
  call.workspace = static_cast<std::byte*>(zeros(kernels.workspace(p)));
  return [&kernels, p] { kernels.forward(p); };
}

/// 4 bits of a bfloat16 weight of 20 rows, and 8 of a float32 one.
void add_quantizers(const char* isa, const Quantizers& quantizers) {
  for (const DType dtype : {DType::bf16, DType::f32}) {
    const bool nibbles = dtype == DType::bf16;
    const int64_t N = 20, K = 96, rows = 32;
    const std::string said = std::string(nibbles ? "int4 " : "int8 ") + lynx::name(dtype) + " N=20 K=96";
    all_calls().push_back({"quantize_weight", isa, said, [=, &quantizers] {
                             const QuantizeParams p{dtype,
                                                    numbers(dtype, N * K, 1.0f, 4),
                                                    K,
                                                    N,
                                                    K,
                                                    nibbles,
                                                    96,
                                                    32,
                                                    static_cast<uint8_t*>(zeros(rows * K)),
                                                    zeros(rows * K / 32 * 2)};
                             return Call([&quantizers, p] { quantizers.quantize(p); });
                           }});
  }
}

void add_all(const char* isa, const char* op, const Kernels& kernels) {
  for (const Sizes& s : kSizes) {
    if ((kernels.dtypes & dtype_set(s.dtype)) == 0) continue;
    all_calls().push_back({op, isa, name(s), [&kernels, s] { return forward(kernels, s); }});
  }
}

const bench::Registration registration([] {
#define LYNX_ADD(isa)                                                   \
  add_all(#isa, "quantized_linear", isa::quantized_linear_kernels);     \
  add_all(#isa, "weight_only_linear", isa::weight_only_linear_kernels); \
  add_quantizers(#isa, isa::weight_quantizers);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
});

}  // namespace
}  // namespace lynx
