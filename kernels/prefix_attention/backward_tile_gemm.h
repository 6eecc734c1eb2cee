// Small bfloat16 matrix products on AMX tiles, float32 sums: C (+)= A B.
//
// Operands are packed as full tiles of 1 KiB: A tile (m, k) of 16 rows x 32, B tile (k, n) of 32 x 16 in pairs, at
// operand + (m * k_tiles + k) * 512 and operand + (k * n_tiles + n) * 512. Head dims are padded to 32 with zeros
// (88 -> 96), rows to 16.
#pragma once
#include <cstdint>

#include "cpu/tile.h"
#include "cpu/tile_pack.h"
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

struct BackwardTileGemm {
  using Operand = bf16;
  using Scope = TileScope;
  static constexpr int64_t kRowBlock = 128;
  static constexpr int64_t kDimMultiple = kTileDepth;
  static constexpr int64_t kColumnMultiple = 2 * kTileRows;

  LYNX_INLINE static void pack_a(bf16* a, int64_t ld, Rows<const bf16> src, int64_t rows, int64_t depth) {
    for (int64_t m = 0; m < rows; m += kTileRows) {
      for (int64_t k = 0; k < ld; k += kTileDepth, a += kTileElements) {
        pack_a_tile(a, src[m] + k, src.ld, min_of(kTileRows, rows - m), min_of(kTileDepth, depth - k));
      }
    }
  }
  LYNX_INLINE static void pack_b(bf16* b, int64_t ld, Rows<const bf16> src, int64_t depth, int64_t columns) {
    for (int64_t k = 0; k < depth; k += kTileDepth) {
      for (int64_t n = 0; n < ld; n += kTileRows, b += kTileElements) {
        pack_b_tile(b, src[k] + n, src.ld, min_of(kTileDepth, depth - k), max_of(0, min_of(kTileRows, columns - n)));
      }
    }
  }
  LYNX_INLINE static void pack_bt(bf16* b, Rows<const bf16> src, int64_t columns, int64_t depth) {
    for (int64_t k = 0; k < depth; k += kTileDepth) {
      for (int64_t n = 0; n < kColumns; n += kTileRows, b += kTileElements) {
        const int64_t present = max_of(0, min_of(kTileRows, columns - n));
        pack_bt_tile(b, src[n] + k, src.ld, present, min_of(kTileDepth, depth - k));
      }
    }
  }
  /// [rows, kColumns] float32 rounded to A tiles; rows beyond the last only reach rows of C that nobody reads.
  LYNX_INLINE static const bf16* scores_as_a(bf16* a, const float* scores, int64_t rows) {
    for (int64_t m = 0; m < rows; ++m) {
      bf16* row = a + m / kTileRows * (kColumns / kTileDepth) * kTileElements + m % kTileRows * kTileDepth;
      for (int64_t j = 0; j < kColumns; j += kWidth) {
        store(row + j / kTileDepth * kTileElements + j % kTileDepth, load(scores + m * kColumns + j));
      }
    }
    return a;
  }

  /// C [rows, columns] (+)= A [rows, depth] B [depth, columns], two by two tiles of C at a time.
  static void multiply(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t ldb, int64_t rows,
                       int64_t columns, int64_t depth, bool accumulate) {
    const int64_t a_tiles = lda / kTileDepth * kTileElements;  // from one row of A tiles to the next
    const int64_t b_tiles = ldb / kTileRows * kTileElements;   // from one row of B tiles to the next
    const int64_t steps = ceil_div(depth, kTileDepth);
    for (int64_t m = 0; m < rows; m += 2 * kTileRows) {
      const bool two_rows = m + kTileRows < rows;
      for (int64_t n = 0; n < columns; n += 2 * kTileRows) {
        const bf16* a_m = a + m / kTileRows * a_tiles;
        const bf16* b_n = b + n / kTileRows * kTileElements;
        float* c_mn = c + m * ldc + n;
        two_rows ? square<2>(c_mn, ldc, a_m, a_tiles, b_n, b_tiles, steps, accumulate)
                 : square<1>(c_mn, ldc, a_m, a_tiles, b_n, b_tiles, steps, accumulate);
      }
    }
  }

 private:
  /// M x 2 tiles of C in registers 0 to 3; A in 4 and 5, B in 6 and 7. Columns come in pairs of tiles.
  template <int M>
  LYNX_INLINE static void square(float* c, int64_t ldc, const bf16* a, int64_t a_tiles, const bf16* b, int64_t b_tiles,
                                 int64_t steps, bool accumulate) {
    const int64_t c_bytes = ldc * static_cast<int64_t>(sizeof(float));
    load_sums<M>(c, ldc, c_bytes, accumulate);
    for (int64_t k = 0; k < steps; ++k, a += kTileElements, b += b_tiles) {
      tile_load<4>(a, kTileBytes);
      tile_load<6>(b, kTileBytes);
      tile_load<7>(b + kTileElements, kTileBytes);
      tile_dp_bf16<0, 4, 6>();
      tile_dp_bf16<1, 4, 7>();
      if constexpr (M == 2) {
        tile_load<5>(a + a_tiles, kTileBytes);
        tile_dp_bf16<2, 5, 6>();
        tile_dp_bf16<3, 5, 7>();
      }
    }
    tile_store<0>(c, c_bytes);
    tile_store<1>(c + kTileRows, c_bytes);
    if constexpr (M == 2) {
      tile_store<2>(c + kTileRows * ldc, c_bytes);
      tile_store<3>(c + kTileRows * ldc + kTileRows, c_bytes);
    }
  }

  template <int M>
  LYNX_INLINE static void load_sums(const float* c, int64_t ldc, int64_t c_bytes, bool accumulate) {
    if (!accumulate) {
      tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
      return;
    }
    tile_load<0>(c, c_bytes);
    tile_load<1>(c + kTileRows, c_bytes);
    if constexpr (M == 2) {
      tile_load<2>(c + kTileRows * ldc, c_bytes);
      tile_load<3>(c + kTileRows * ldc + kTileRows, c_bytes);
    }
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
