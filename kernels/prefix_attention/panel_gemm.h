// Small matrix products on vectors, C = A B or C += A B, from operands packed in L1 and L2.
//
// A number of C is one chain of multiply-adds in the order of the depth (in float32, chunks of it), whatever tile it falls
// into: a row's bits depend on nothing but the row. `Math` says what a 32-bit word of an operand is and how two multiply:
// one float (float_math.h), or a pair of bfloat16 numbers that are neighbours along the depth (dot_math.h).
//
// A is packed as it stands, rows of words. B is cut into panels of a few vectors of columns; a panel holds, for each word
// of the depth, its columns side by side, so that the inner loop streams it:
//
//              panel 0            panel 1
//   depth 0    c0 c1 ... c63 | ... c64 c65 ...            tile: 6 rows of A x 4 vectors of B in 24 of 32 registers
//   depth 1    c0 c1 ... c63 |                            (6 x 2 in 12 of AVX2's 16)
#pragma once
#include <cstdint>

#include "cpu/vec_transpose.h"
#include "head.h"

namespace lynx::LYNX_ISA::prefix_attention {

template <class Math>
struct PanelGemm {
  using Operand = typename Math::Operand;
  static constexpr int64_t kPerWord = 4 / static_cast<int64_t>(sizeof(Operand));
  static constexpr int64_t kGroupRows = 6;
  static constexpr int kTileN = kWidth == 16 ? 4 : 2;
  static constexpr int64_t kPanel = kTileN * kWidth;  // columns of a panel of B^T: keys
  static constexpr int64_t kAhead = 16;               // rows that packing asks for in advance
  static constexpr int64_t kDepthMultiple = kPerWord;
  static constexpr int64_t kColumnMultiple = kWidth;

  struct Scope {};  // what a thread needs to hold while it multiplies: nothing

  /// Columns of a panel of B: as even a cut of the vectors as possible, so that no tile is too narrow to hide latency.
  LYNX_INLINE static int64_t panel_of(int64_t columns) {
    const int64_t vectors = ceil_div(columns, kWidth);
    return ceil_div(vectors, ceil_div(vectors, kTileN)) * kWidth;
  }

  /// a[r][d] = src[r][d], filled up to whole words with zeros.
  template <class Source>
  LYNX_INLINE static void pack_a(Operand* a, int64_t lda, const Source& src, int64_t rows, int64_t depth) {
    for (int64_t r = 0; r < rows; ++r) {
      if (r + kAhead < rows) prefetch_row(src[r + kAhead], depth);
      for (int64_t d = 0; d < lda; d += kWidth * kPerWord) {
        store_some(words(a + r * lda + d), Math::load_words(src[r] + d, depth - d), (lda - d) / kPerWord);
      }
    }
  }

  /// B[d][n] = src[n][d]. Columns are filled up to a whole vector with copies of the last one.
  template <class Source>
  static void pack_bt(Operand* b, const Source& src, int64_t columns, int64_t depth) {
    const int64_t steps = ceil_div(depth, kPerWord);
    for (int64_t n = 0; n < columns; n += kWidth) {
      float* const panel = words(b) + n / kPanel * kPanel * steps + n % kPanel;
      for (int64_t i = n + kAhead; i < min_of(n + kAhead + kWidth, columns); ++i) prefetch_row(src[i], depth);
      for (int64_t step = 0; step < steps; step += kWidth) {
        Vec square[kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          const int64_t d = step * kPerWord;
          square[i] = Math::load_words(src[min_of(n + i, columns - 1)] + d, depth - d);
        }
        transpose_vectors(square);
        const int64_t count = min_of(kWidth, steps - step);
        for (int64_t i = 0; i < count; ++i) store(panel + (step + i) * kPanel, square[i]);
      }
    }
  }

  /// B[k][n] = src[k][n]; false if a number of it is NaN or infinite. Depth is filled up to whole words with zeros.
  template <class Source>
  static bool pack_b(Operand* b, const Source& src, int64_t depth, int64_t columns) {
    const int64_t panel = panel_of(columns), steps = ceil_div(depth, kPerWord);
    float* start[kMaxHeadDim / kWidth];  // of each vector of columns: its place in row 0 of its panel
    for (int64_t i = 0; i * kWidth < columns; ++i) {
      start[i] = words(b) + i * kWidth / panel * panel * steps + i * kWidth % panel;
    }
    typename Math::Finite finite;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t ahead = step * kPerWord + kAhead;
      for (int64_t i = ahead; i < min_of(ahead + kPerWord, depth); ++i) prefetch_row(src[i], columns);
      for (int64_t n = 0; n < columns; n += kWidth * kPerWord) {
        Vec words_of[kPerWord];
        Math::load_depth(words_of, src, step, depth, n, columns - n);
        Math::watch(words_of, finite);
        for (int64_t i = 0; i < kPerWord && n + i * kWidth < columns; ++i) {
          store(start[n / kWidth + i] + step * panel, words_of[i]);
        }
      }
    }
    return finite.holds();
  }

  /// a[d][r] = src[r][d] for r < depth: rows of lda numbers, filled up to whole words with zeros.
  template <class Source>
  static void pack_at(Operand* a, int64_t lda, const Source& src, int64_t depth, int64_t rows) {
    const int64_t steps = ceil_div(depth, kPerWord);
    for (int64_t d = 0; d < rows; d += kWidth * kPerWord) {
      for (int64_t step = 0; step < steps; step += kWidth) {
        Vec squares[kPerWord][kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          Vec words_of[kPerWord];
          Math::load_depth(words_of, src, min_of(step + i, steps - 1), depth, d, rows - d);
          for (int64_t w = 0; w < kPerWord; ++w) squares[w][i] = words_of[w];
        }
        for (int64_t w = 0; w < kPerWord; ++w) {
          transpose_vectors(squares[w]);
          for (int64_t i = 0; i < kWidth && d + w * kWidth + i < rows; ++i) {
            float* const row = words(a + (d + w * kWidth + i) * lda) + step;
            store_some(row, squares[w][i], steps - step);
          }
        }
      }
    }
  }

  /// B[k][n] = src[k * ld + n]: float32 numbers become a factor B of `multiply_b`.
  static void pack_b_floats(Operand* b, const float* src, int64_t ld, int64_t depth, int64_t columns) {
    const int64_t panel = panel_of(columns), steps = ceil_div(depth, kPerWord);
    for (int64_t n = 0; n < columns; n += kWidth) {
      float* const start = words(b) + n / panel * panel * steps + n % panel;
      for (int64_t step = 0; step < steps; ++step) {
        store(start + step * panel, Math::word_of(src + step * kPerWord * ld + n, ld, depth - step * kPerWord));
      }
    }
  }

  /// a[r][k .. k + kWidth) = values, as a factor A of `multiply`.
  LYNX_INLINE static void put_a(Operand* a, int64_t lda, int64_t r, int64_t k, Vec values) {
    Math::put(a + r * lda + k, values);
  }

  /// C [rows, columns] = A B^T, where B^T was packed by pack_bt; columns are rounded up to a vector.
  static void multiply_bt(float* c, int64_t ldc, const Operand* a, int64_t lda, const Operand* b, int64_t rows,
                          int64_t columns, int64_t depth) {
    multiply<Math::kChunk>(c, ldc, a, lda, b, kPanel, ceil_div(depth, kPerWord), rows, columns, depth, false);
  }
  /// C [rows, columns] (+)= A B over the first `depth` of the `packed_depth` rows that pack_b packed.
  static void multiply_b(float* c, int64_t ldc, const Operand* a, int64_t lda, const Operand* b, int64_t packed_depth,
                         int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    multiply<Math::kKeyChunk>(c, ldc, a, lda, b, panel_of(columns), ceil_div(packed_depth, kPerWord), rows, columns,
                              depth, accumulate);
  }

 private:
  LYNX_INLINE static float* words(Operand* x) { return reinterpret_cast<float*>(x); }
  LYNX_INLINE static const float* words(const Operand* x) { return reinterpret_cast<const float*>(x); }

  template <int64_t kChunk>
  static void multiply(float* c, int64_t ldc, const Operand* a, int64_t lda, const Operand* b, int64_t panel,
                       int64_t packed_steps, int64_t rows, int64_t columns, int64_t depth, bool accumulate) {
    const int64_t steps = ceil_div(depth, kPerWord);
    for (int64_t r = 0; r < rows; r += kGroupRows) {
      for (int64_t n = 0; n < columns; n += panel) {
        const Block block{c + r * ldc + n, ldc,   words(a + r * lda), lda / kPerWord, words(b) + n * packed_steps,
                          panel,           steps, accumulate};
        const int64_t vectors = ceil_div(min_of(panel, columns - n), kWidth);
        choose_rows<kChunk>(block, min_of(kGroupRows, rows - r), vectors);
      }
    }
  }

  struct Block {
    float* c;
    int64_t ldc;
    const float* a;
    int64_t lda;
    const float* b;
    int64_t ldb, steps;
    bool accumulate;
  };

  template <int64_t kChunk>
  LYNX_INLINE static void choose_rows(const Block& block, int64_t rows, int64_t vectors) {
    switch (rows) {
      case 6:
        return choose_columns<kChunk, 6>(block, vectors);
      case 5:
        return choose_columns<kChunk, 5>(block, vectors);
      case 4:
        return choose_columns<kChunk, 4>(block, vectors);
      case 3:
        return choose_columns<kChunk, 3>(block, vectors);
      case 2:
        return choose_columns<kChunk, 2>(block, vectors);
      default:
        return choose_columns<kChunk, 1>(block, vectors);
    }
  }
  template <int64_t kChunk, int M>
  LYNX_INLINE static void choose_columns(const Block& block, int64_t vectors) {
    if constexpr (kTileN == 4) {
      if (vectors == 4) return tile<kChunk, M, 4>(block);
      if (vectors == 3) return tile<kChunk, M, 3>(block);
    }
    vectors == 2 ? tile<kChunk, M, 2>(block) : tile<kChunk, M, 1>(block);
  }

  template <int64_t kChunk, int M, int N>
  __attribute__((noinline)) static void tile(const Block& block) {
    const float *a = block.a, *b = block.b;
    const int64_t lda = block.lda, ldb = block.ldb, ldc = block.ldc;
    bool accumulate = block.accumulate;
    for (int64_t left = block.steps; left > 0; left -= kChunk, accumulate = true) {
      Vec sum[M][N];
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) sum[m][n] = zero();
      }
      const float* const end = a + min_of(kChunk, left);
      for (; a < end; ++a, b += ldb) {
        Vec b_N[N];
        for (int n = 0; n < N; ++n) b_N[n] = load(b + n * kWidth);
        for (int m = 0; m < M; ++m) {
          const Vec a_m = set1(a[m * lda]);
          for (int n = 0; n < N; ++n) sum[m][n] = Math::multiply_add(a_m, b_N[n], sum[m][n]);
        }
      }
      for (int m = 0; m < M; ++m) {
        for (int n = 0; n < N; ++n) {
          float* const c = block.c + m * ldc + n * kWidth;
          store(c, accumulate ? add(load(c), sum[m][n]) : sum[m][n]);
        }
      }
    }
  }
};

}  // namespace lynx::LYNX_ISA::prefix_attention
