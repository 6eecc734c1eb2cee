// tokens = patches @ weight^T + bias + pos_embed, one text for every instruction set.
//
// `Element` is the type of the parameters and of the result. `Operand` is what the product takes on its left side: float32
// on the vector instruction sets, bfloat16 on AMX. Sums, bias and positions are float32 everywhere; a token is rounded once.
#pragma once
#include "core/workspace.h"
#include "cpu/gemm_nt.h"
#include "cpu/loops.h"
#include "params.h"
#include "pixels.h"

namespace lynx::LYNX_ISA {

constexpr int64_t kChunkPatches = 256;  // patches between two passes over the weights; bounds the scratch memory

LYNX_INLINE int64_t num_patches(const Params& p) { return p.grid_h * p.grid_w; }
LYNX_INLINE int64_t patch_depth(const Params& p) { return 3 * p.patch_size * p.patch_size; }
LYNX_INLINE int64_t chunk_patches(const Params& p) {
  const int64_t patches = p.batch * num_patches(p);
  return patches < kChunkPatches ? patches : kChunkPatches;
}

/// The first row of every image: cls_token + pos_embed[0].
template <class Element>
void store_class_tokens(const Params& p) {
  const auto* cls_token = static_cast<const Element*>(p.cls_token);
  const auto* pos_embed = static_cast<const Element*>(p.pos_embed);
  for_rows(p.batch, p.channels, [&](int64_t b) {
    Element* out = static_cast<Element*>(p.out) + b * (1 + num_patches(p)) * p.channels;
    for_vectors(p.channels, [&](int64_t i, int64_t n) {
      store_some(out + i, add(load_some(cls_token + i, n), load_some(pos_embed + i, n)), n);
    });
  });
}

/// Tokens of the patches first .. first + count, counted through all images; `rows` [count, depth] is workspace.
template <class Element, class Operand>
void embed_chunk(const Params& p, const PatchReader<Operand>& reader, int64_t first, int64_t count, Operand* rows,
                 std::byte* scratch) {
  const int64_t N = num_patches(p), K = patch_depth(p), D = p.channels;
  for_rows(count, K, [&](int64_t m) {
    const int64_t n = (first + m) % N;
    reader.read((first + m) / N, n / p.grid_w, n % p.grid_w, rows + m * K);
  });
  const auto* bias = static_cast<const Element*>(p.bias);
  const auto* pos_embed = static_cast<const Element*>(p.pos_embed);
  auto* out = static_cast<Element*>(p.out);
  const auto store_token = [&](int64_t m, int64_t d, int64_t width, const float* sums) {
    const int64_t b = (first + m) / N, position = 1 + (first + m) % N;
    const Element* pos = pos_embed + position * D + d;
    Element* token = out + (b * (1 + N) + position) * D + d;
    for_vectors(width, [&](int64_t i, int64_t n) {
      const Vec projected = add(load_some(sums + i, n), load_some(bias + d + i, n));
      store_some(token + i, add(projected, load_some(pos + i, n)), n);
    });
  };
  gemm_nt(rows, K, static_cast<const Element*>(p.weight), K, count, D, K, scratch, store_token);
}

template <class Operand>
int64_t workspace_bytes(const Params& p) {
  return aligned_bytes(chunk_patches(p) * patch_depth(p), sizeof(Operand)) +
         gemm_nt_scratch<Operand>(chunk_patches(p), patch_depth(p));
}

template <class Element, class Operand>
void run_as(const Params& p) {
  Arena arena(p.workspace);
  auto* rows = arena.take<Operand>(chunk_patches(p) * patch_depth(p));
  auto* scratch = arena.take<std::byte>(0);
  const PatchReader<Operand> reader(p);
  const int64_t patches = p.batch * num_patches(p);
  for (int64_t first = 0; first < patches; first += kChunkPatches) {
    const int64_t count = patches - first < kChunkPatches ? patches - first : kChunkPatches;
    embed_chunk<Element>(p, reader, first, count, rows, scratch);
  }
  store_class_tokens<Element>(p);
}

}  // namespace lynx::LYNX_ISA
