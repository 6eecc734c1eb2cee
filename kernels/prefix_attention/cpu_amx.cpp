// bfloat16 through AMX tiles; a sequence of few queries (decoding) would leave the tiles empty and takes float32 vectors.
#include "backward.h"
#include "decode.h"
#include "float_math.h"
#include "forward.h"
#include "panel_gemm.h"
#include "tile_gemm.h"

namespace lynx::LYNX_ISA {
namespace prefix_attention {
namespace {

void forward_bf16(const ForwardParams& params, int64_t task) {
  const Mask mask(params.problem, Place(params.problem, task, params.problem.max_seqlen_q, kQueryBlock).seq);
  mask.num_queries > kFewQueries ? forward<TileGemm, bf16>(params, task)
                                 : forward<PanelGemm<FloatMath>, bf16>(params, task);
}

}  // namespace
}  // namespace prefix_attention

extern const lynx::prefix_attention::Kernels prefix_attention_kernels{
    dtype_set(DType::bf16),
    prefix_attention::forward_bf16,
    prefix_attention::decode_span<prefix_attention::FloatMath, bf16>,
    prefix_attention::decode_merge<bf16>,
    nullptr,  // paged_attention has no work for tiles: cpu_avx512_bf16 takes it
    nullptr,
    prefix_attention::backward<prefix_attention::TileGemm, bf16>,
    prefix_attention::kQueryBlock};

}  // namespace lynx::LYNX_ISA
