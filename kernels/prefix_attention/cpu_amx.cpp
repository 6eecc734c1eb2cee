// bfloat16 through AMX tiles; a sequence of few queries (decoding) would leave the tiles empty and takes float32 vectors.
#include "backward.h"
#include "forward.h"
#include "tile_gemm.h"
#include "vector_gemm.h"

namespace lynx::LYNX_ISA {
namespace prefix_attention {
namespace {

constexpr int64_t kFewQueries = 8;

void forward_bf16(const ForwardParams& params, int64_t task) {
  const Place place(params.problem, task, params.problem.max_seqlen_q, TileGemm::kRowBlock);
  const Mask mask(params.problem, place.seq);
  const int64_t first_row = place.block * TileGemm::kRowBlock;
  if (first_row >= mask.num_queries) return;
  if (mask.num_queries > kFewQueries) return ForwardBlock<TileGemm, bf16>(params, mask, place, first_row).run();
  ForwardBlock<VectorGemm, bf16>(params, mask, place, first_row).run();
}

}  // namespace
}  // namespace prefix_attention

extern const lynx::prefix_attention::Kernels prefix_attention_kernels{
    dtype_set(DType::bf16),
    prefix_attention::forward_bf16,
    prefix_attention::backward_q<prefix_attention::TileGemm, bf16>,
    prefix_attention::backward_kv<prefix_attention::TileGemm, bf16>,
    prefix_attention::TileGemm::kRowBlock,
    prefix_attention::TileGemm::kRowBlock};

}  // namespace lynx::LYNX_ISA
