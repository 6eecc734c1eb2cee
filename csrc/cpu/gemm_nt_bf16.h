// gemm_nt.h by AMX tiles. The product is computed transposed, C^T = B A^T: rows of B (a weight) are loaded as tiles where
// they lie in memory, and only A (activations, the smaller one when few tokens pass) is packed in pairs along K.
#pragma once
#include <cstddef>

#include "core/parallel.h"
#include "tile_pack.h"

namespace lynx::LYNX_ISA {

constexpr int64_t kStripsATask = 8;  // 256 rows of A share one read of 32 rows of B from L2

template <class A>
LYNX_INLINE int64_t gemm_nt_scratch(int64_t M, int64_t K) {
  return (M + kStrip - 1) / kStrip * strip_elements(K) * static_cast<int64_t>(sizeof(bf16));
}

/// Tile T = rows b[0..rows), 32 numbers each: loaded where they lie, or through a copy filled up with zeros at an edge.
template <int T>
LYNX_INLINE void load_rows(const bf16* b, int64_t ldb, int64_t rows, int64_t depth, bf16* edge) {
  if (rows >= kTileRows && depth >= kTileDepth) return tile_load<T>(b, ldb * static_cast<int64_t>(sizeof(bf16)));
  pack_a_tile(edge, b, ldb, at_most(rows, kTileRows), at_most(depth, kTileDepth));
  tile_load<T>(edge, kTileBytes);
}

/// product [32][32] = 32 rows of B (zeros beyond `rows`) times a packed strip of A.
LYNX_INLINE void multiply_rows(const bf16* b, int64_t ldb, int64_t rows, const bf16* strip, int64_t K, float* product) {
  constexpr int64_t kProductBytes = kStrip * sizeof(float);
  alignas(64) bf16 edge[kTileElements];
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t k = 0; k < K; k += kTileDepth, strip += 2 * kTileElements) {
    load_rows<4>(b + k, ldb, rows, K - k, edge);
    tile_load<6>(strip, kTileBytes);
    tile_dp_bf16<0, 4, 6>();
    tile_load<7>(strip + kTileElements, kTileBytes);
    tile_dp_bf16<1, 4, 7>();
    if (rows <= kTileRows) continue;
    load_rows<5>(b + kTileRows * ldb + k, ldb, rows - kTileRows, K - k, edge);
    tile_dp_bf16<2, 5, 6>();
    tile_dp_bf16<3, 5, 7>();
  }
  tile_store<0>(product, kProductBytes);
  tile_store<1>(product + kTileRows, kProductBytes);
  tile_store<2>(product + kTileRows * kStrip, kProductBytes);
  tile_store<3>(product + kTileRows * kStrip + kTileRows, kProductBytes);
}

template <class Epilogue>
void gemm_nt(const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int64_t M, int64_t N, int64_t K,
             std::byte* scratch, const Epilogue& epilogue) {
  const int64_t strips = (M + kStrip - 1) / kStrip, length = strip_elements(K);
  const bool worth_waking = 2.0 * M * N * K > 4e5;
  auto* packed = reinterpret_cast<bf16*>(scratch);
  const auto pack = [&](int64_t s, int) {
    pack_bt_strip(packed + s * length, a + s * kStrip * lda, lda, at_most(M - s * kStrip, kStrip), K);
  };
  parallel_for(strips, pack, worth_waking);
  const int64_t groups = (strips + kStripsATask - 1) / kStripsATask;
  const auto block = [&](int64_t index, int) {
    const TileScope tiles;
    alignas(64) float product[kStrip * kStrip], sums[kStrip];
    const int64_t n = index / groups * kStrip, first = index % groups * kStripsATask;
    const int64_t columns = at_most(N - n, kStrip), last = at_most(first + kStripsATask, strips);
    for (int64_t s = first; s < last; ++s) {
      multiply_rows(b + n * ldb, ldb, columns, packed + s * length, K, product);
      const int64_t rows = at_most(M - s * kStrip, kStrip);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) sums[j] = product[j * kStrip + i];
        epilogue(s * kStrip + i, n, columns, sums);
      }
    }
  };
  parallel_for((N + kStrip - 1) / kStrip * groups, block, worth_waking);
}

}  // namespace lynx::LYNX_ISA
