// AMX: bfloat16 tensors, products on bfloat16 tiles with float32 sums. The left sides of products (LN(x), silu(..), and in
// the backward pass dy and d_pre) are rounded to bfloat16, as torch rounds them.
#include "backward.h"
#include "forward.h"

namespace lynx::LYNX_ISA {

extern const adapter_mlp::Kernels adapter_mlp_kernels;
const adapter_mlp::Kernels adapter_mlp_kernels{
    dtype_set(DType::bf16),  //
    forward_workspace<bf16>, forward_as<bf16, bf16>, backward_workspace<bf16>, backward_as<bf16, bf16>,
};

}  // namespace lynx::LYNX_ISA
