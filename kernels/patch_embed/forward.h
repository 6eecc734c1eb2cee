// tokens = patches @ weight^T + bias + pos_embed, one text for every instruction set: patches become rows of operands
// (patches.h), cpu/gemm.h multiplies them, and bias and position are added to its sums. A token is rounded once.
#pragma once
#include "core/workspace.h"
#include "cpu/gemm.h"
#include "cpu/gemm_panels.h"
#include "cpu/loops.h"
#include "params.h"
#include "patches.h"

namespace lynx::LYNX_ISA {
namespace {

/// The first row of every image: cls_token + pos_embed[0].
template <class T>
void store_class_tokens(const Params& p) {
  const auto *cls_token = static_cast<const T*>(p.cls_token), *pos_embed = static_cast<const T*>(p.pos_embed);
  for_rows(p.batch, p.channels, [&](int64_t b) {
    T* out = static_cast<T*>(p.out) + b * (1 + num_patches(p)) * p.channels;
    for_vectors(p.channels, [&](int64_t i, int64_t n) {
      store_some(out + i, add(load_some(cls_token + i, n), load_some(pos_embed + i, n)), n);
    });
  });
}

int64_t workspace(const Params& p) {
  const int64_t chunk = chunk_rows(p.batch * num_patches(p));
  return aligned_bytes(Rows::elements(chunk, patch_depth(p)), sizeof(Operand)) + GemmScratch::bytes(chunk, p.lanes);
}

template <class T>
void run_as(const Params& p) {
  const int64_t N = num_patches(p), K = patch_depth(p), D = p.channels, patches = p.batch * N;
  const int64_t chunk = chunk_rows(patches);
  Arena arena(p.workspace);
  auto* operands = arena.take<Operand>(Rows::elements(chunk, K));
  const GemmScratch scratch{arena.take<std::byte>(0), chunk, p.lanes};
  const PatchRows rows(p);
  const TransposedB<T> weight{static_cast<const T*>(p.weight), K, D, K};
  const auto *bias = static_cast<const T*>(p.bias), *pos_embed = static_cast<const T*>(p.pos_embed);
  for (int64_t first = 0; first < patches; first += chunk) {
    const Rows a{operands, Rows::distance(K), smaller(chunk, patches - first), K};
    fill_rows(rows, first, a);
    multiply(a, weight, D, scratch, [&](int64_t m, int64_t d, int64_t count, const float* sums) {
      const int64_t b = (first + m) / N, position = 1 + (first + m) % N;
      const T* pos = pos_embed + position * D + d;
      T* token = static_cast<T*>(p.out) + (b * (1 + N) + position) * D + d;
      for_vectors(count, [&](int64_t i, int64_t n) {
        const Vec projected = add(load_some(sums + i, n), load_some(bias + d + i, n));
        store_some(token + i, add(projected, load_some(pos + i, n)), n);
      });
    });
  }
  store_class_tokens<T>(p);
}

#if defined(LYNX_HAS_TILES) || defined(__AVX512BF16__)
constexpr uint32_t kTypes = dtype_set(DType::bf16);
void run(const Params& p) { run_as<bf16>(p); }
#else
constexpr uint32_t kTypes = dtype_set(DType::f32, DType::bf16);
void run(const Params& p) { p.dtype == DType::f32 ? run_as<float>(p) : run_as<bf16>(p); }
#endif

}  // namespace

extern const patch_embed::Kernels patch_embed_kernels;
const patch_embed::Kernels patch_embed_kernels{kTypes, workspace, run};

}  // namespace lynx::LYNX_ISA
