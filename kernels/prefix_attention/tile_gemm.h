// Small bfloat16 matrix products on AMX tiles, float32 sums: C = A B or C += A B.
//
// Operands are packed as full tiles of 1 KiB. A: tiles of 16 rows x 32, row of tiles after row of tiles, so that rows
// r .. r + 15 start at a + r * lda. B: strips of 32 columns, two tiles of 32 x 16 (in pairs) for each 32 of the depth, so
// that the inner loop streams a strip. Head dims are padded to 32 with zeros (88 -> 96), rows to 16.
#pragma once
#include <cstdint>

#include "cpu/tile.h"
#include "cpu/vec_transpose.h"
#include "pairs.h"

namespace lynx::LYNX_ISA::prefix_attention {

constexpr int64_t kStrip = 2 * kTileRows;

/// bfloat16 numbers in a strip of `depth` values of k.
LYNX_INLINE int64_t strip_elements(int64_t depth) { return (depth + kTileDepth - 1) / kTileDepth * 2 * kTileElements; }

struct TileGemm {
  using Operand = bf16;
  using Scope = TileScope;
  static constexpr int64_t kGroupRows = 2 * kTileRows;
  static constexpr int64_t kDepthMultiple = kTileDepth;
  static constexpr int64_t kColumnMultiple = kStrip;

  template <class Source>
  LYNX_INLINE static void pack_a(bf16* a, int64_t lda, const Source& src, int64_t rows, int64_t depth) {
    for (int64_t m = 0; m < round_up(rows, kTileRows); ++m) {
      bf16* const row = a + m / kTileRows * kTileRows * lda + m % kTileRows * kTileDepth;
      for (int64_t k = 0; k < lda; k += kTileDepth) {
        store_row(row + k * kTileRows, m < rows ? load_pairs(src[m] + k, depth - k) : zero());
      }
    }
  }

  /// B[d][n] = src[n][d]. Columns are filled up to a strip with copies of the last one.
  template <class Source>
  static void pack_bt(bf16* b, const Source& src, int64_t columns, int64_t depth) {
    for (int64_t n = 0; n < round_up(columns, kStrip); n += kTileRows) {
      bf16* tile = b + n / kStrip * strip_elements(depth) + n % kStrip * kTileDepth;
      for (int64_t k = 0; k < depth; k += kTileDepth, tile += 2 * kTileElements) {
        Vec square[kTileRows];
        for (int64_t i = 0; i < kTileRows; ++i) {
          square[i] = load_pairs(src[min_of(n + i, columns - 1)] + k, depth - k);
        }
        transpose_vectors(square);
        for (int64_t i = 0; i < kTileRows; ++i) store_row(tile + i * kTileDepth, square[i]);
      }
    }
  }

  /// B[k][n] = src[k][n]; false if a number of it is NaN or infinite. Depth is filled up to a tile with zeros.
  template <class Source>
  static bool pack_b(bf16* b, const Source& src, int64_t depth, int64_t columns) {
    FinitePairs finite;
    for (int64_t n = 0; n < columns; n += kStrip) {
      bf16* const strip = b + n / kStrip * strip_elements(depth);
      for (int64_t k = 0; k < round_up(depth, kTileDepth); k += 2) {
        Vec pairs[2] = {zero(), zero()};
        if (k < depth) load_row_pairs(pairs, src, k / 2, depth, n, columns - n);
        finite.watch(pairs[0]), finite.watch(pairs[1]);
        bf16* const row = strip + k / kTileDepth * 2 * kTileElements + k % kTileDepth * kTileRows;
        store_row(row, pairs[0]);
        store_row(row + kTileElements, pairs[1]);
      }
    }
    return finite.holds();
  }

  /// a[d][r] = src[r][d] for r < depth: tiles of 16 values of d, 32 of r.
  template <class Source>
  static void pack_at(bf16* a, int64_t lda, const Source& src, int64_t depth, int64_t rows) {
    for (int64_t d = 0; d < rows; d += kStrip) {
      for (int64_t k = 0; k < depth; k += kTileDepth) {
        Vec squares[2][kTileRows];
        for (int64_t i = 0; i < kTileRows; ++i) {
          Vec pairs[2] = {zero(), zero()};
          if (k + 2 * i < depth) load_row_pairs(pairs, src, k / 2 + i, depth, d, rows - d);
          squares[0][i] = pairs[0], squares[1][i] = pairs[1];
        }
        for (int64_t half = 0; half < 2; ++half) {
          bf16* const tile = a + (d + half * kTileRows) * lda + k * kTileRows;
          transpose_vectors(squares[half]);
          for (int64_t i = 0; i < kTileRows; ++i) store_row(tile + i * kTileDepth, squares[half][i]);
        }
      }
    }
  }

  /// B[k][n] = src[k * ld + n] rounded to bfloat16.
  static void pack_b_floats(bf16* b, const float* src, int64_t ld, int64_t depth, int64_t columns) {
    for (int64_t n = 0; n < columns; n += kTileRows) {
      bf16* const tile = b + n / kStrip * strip_elements(depth) + n % kStrip * kTileDepth;
      for (int64_t k = 0; k < round_up(depth, kTileDepth); k += 2) {
        const Vec pairs = k < depth ? pairs_of(src + k * ld + n, ld, depth - k) : zero();
        store_row(tile + k / kTileDepth * 2 * kTileElements + k % kTileDepth * kTileRows, pairs);
      }
    }
  }

  /// a[r][k .. k + kWidth) = values rounded to bfloat16. Rows that nobody puts only reach rows of C that nobody reads.
  LYNX_INLINE static void put_a(bf16* a, int64_t lda, int64_t r, int64_t k, Vec values) {
    bf16* const row = a + r / kTileRows * kTileRows * lda + r % kTileRows * kTileDepth;
    store(row + k / kTileDepth * kTileElements + k % kTileDepth, values);
  }

  static void multiply_bt(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t rows,
                          int64_t columns, int64_t depth) {
    multiply(c, ldc, a, lda, b, strip_elements(depth), rows, columns, depth, false);
  }
  static void multiply_b(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t packed_depth,
                         int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    multiply(c, ldc, a, lda, b, strip_elements(packed_depth), rows, columns, depth, accumulate);
  }

 private:
  LYNX_INLINE static void store_row(bf16* row, Vec pairs) { _mm512_storeu_ps(row, pairs); }

  /// Two by two tiles of C at a time, in registers over the whole depth.
  static void multiply(float* c, int64_t ldc, const bf16* a, int64_t lda, const bf16* b, int64_t strip, int64_t rows,
                       int64_t columns, int64_t depth, bool accumulate) {
    const int64_t a_tiles = kTileRows * lda, steps = ceil_div(depth, kTileDepth);
    for (int64_t m = 0; m < rows; m += 2 * kTileRows) {
      for (int64_t n = 0; n < columns; n += kStrip) {
        const bf16* const b_n = b + n / kStrip * strip;
        float* const c_mn = c + m * ldc + n;
        m + kTileRows < rows ? square<2>(c_mn, ldc, a + m * lda, a_tiles, b_n, steps, accumulate)
                             : square<1>(c_mn, ldc, a + m * lda, a_tiles, b_n, steps, accumulate);
      }
    }
  }

  /// M x 2 tiles of C in registers 0 to 3; A in 4 and 5, B in 6 and 7.
  template <int M>
  LYNX_INLINE static void square(float* c, int64_t ldc, const bf16* a, int64_t a_tiles, const bf16* b, int64_t steps,
                                 bool accumulate) {
    const int64_t c_bytes = ldc * static_cast<int64_t>(sizeof(float));
    load_sums<M>(c, ldc, c_bytes, accumulate);
    for (int64_t k = 0; k < steps; ++k, a += kTileElements, b += 2 * kTileElements) {
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
