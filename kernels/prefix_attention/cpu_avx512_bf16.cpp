// AVX-512 with vdpbf16ps: bfloat16 tensors, bfloat16 factors, float32 sums; see README.md.
#include "backward.h"
#include "dot_math.h"
#include "forward.h"
#include "paged.h"
#include "panel_gemm.h"

namespace lynx::LYNX_ISA {
extern const lynx::prefix_attention::Kernels prefix_attention_kernels{
    dtype_set(DType::bf16),
    prefix_attention::forward<prefix_attention::PanelGemm<prefix_attention::DotMath>, bf16>,
    prefix_attention::decode_span<prefix_attention::DotMath, bf16>,
    prefix_attention::decode_merge<bf16>,
    prefix_attention::paged_span_of<prefix_attention::DotMath, bf16>,
    prefix_attention::paged_merge<bf16>,
    prefix_attention::backward<prefix_attention::PanelGemm<prefix_attention::DotMath>, bf16>,
    prefix_attention::kQueryBlock};
}  // namespace lynx::LYNX_ISA
