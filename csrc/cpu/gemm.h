// C [M, N] = A [M, K] times B [K, N] into an epilogue: the matrix product that ops are built on.
//
//   fill_rows(source, begin, rows)             A as rows of operands, in parallel (sources: gemm_rows.h)
//   multiply(rows, b, N, scratch, epilogue)    those rows times B (sources: gemm_panels.h), in parallel
//
// An operand is what the instruction set multiplies: float32 on avx2 and avx512, bfloat16 pairs on avx512_bf16 and amx.
// B is read in strips of 16 columns, [k][16] float32 or [k / 2][16][2] bfloat16; a packed weight lies in memory like that.
// epilogue(m, n, count, sums) gets each row's float32 sums of columns n .. n + count, up to 128 at a time.
//
//          N: 128 columns a task           K: blocks of 256, 512      M: blocks of 14 rows (avx512), 6 (avx2), 32 (amx)
//        +---------------+               +---+---+---+            +---+
//   B    | 4 panels of   |          A    | 28 KB of  |   x  32 KB | 2 |  strips of the panel, from L2   ->  28 registers
//        | 2 strips, L2  |               | L1: 14 x  |            |   |
//        +---------------+               +---+---+---+            +---+
//
// A block of A stays in L1 while the panels of a task pass by; the sums of a task stay in L2. The next block of B is
// fetched from memory into L2 while this one is multiplied. An element's value is the sum of its K blocks, each summed
// in the order of k: it does not depend on M, N, its place, the other rows or the threads.
#pragma once
#include <cstddef>

#include "core/parallel.h"
#include "core/workspace.h"
#include "cpu/gemm_kernel.h"
#include "cpu/loops.h"

namespace lynx::LYNX_ISA {

constexpr int64_t kStripColumns = 16;
// K block. bfloat16 on a Zen 5: 256 loses 3 %. float32: a sum of 512 in one chain is twice as far off as torch's.
constexpr int64_t kDepth = sizeof(Operand) == 4 ? 256 : 512;
constexpr int64_t kGroupStrips = 8;  // strips of B a task, at most
constexpr int64_t kChunkRows = 512;  // rows that ops pass through both steps at a time: bounds scratch memory
constexpr double kSerialWork = 4e5;  // operations, about 5 us: less is not worth waking a thread

LYNX_INLINE int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
LYNX_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LYNX_INLINE int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

/// Rows of a chunk: about equal chunks of kChunkRows at most, each of whole blocks, but for the last.
LYNX_INLINE int64_t chunk_rows(int64_t rows) {
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  return chunks == 0 ? 0 : round_up((rows + chunks - 1) / chunks, kBlockRows);
}

/// Rows of operands, zeros from K to the next multiple of 32, an odd number of cache lines apart: rows that are 4 KB
/// apart would share the sets of L1.
struct Rows {
  Operand* data;
  int64_t ld, M, K;

  static LYNX_INLINE int64_t distance(int64_t K) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(Operand));
    return (round_up(K, 32) / kLine | 1) * kLine;
  }
  /// Elements of memory; a tile reads whole blocks of rows.
  static LYNX_INLINE int64_t elements(int64_t M, int64_t K) { return round_up(M, kBlockRows) * distance(K); }
};

/// Scratch memory of `multiply` for at most `rows` rows: sums and panels of each of `lanes` parallel tasks.
struct GemmScratch {
  std::byte* memory;
  int64_t rows, lanes;

  // A line more than a slice: slices 16 KB apart share the sets of L1 (bfloat16, T = 72, Zen 5: 316 -> 353 GFLOP/s).
  static constexpr int64_t kSliceElements = kDepth * kStripColumns + 64 / static_cast<int64_t>(sizeof(Operand));
  static LYNX_INLINE int64_t lane_bytes(int64_t rows) {
    return round_up(rows, kBlockRows) * kGroupStrips * kStripColumns * static_cast<int64_t>(sizeof(float)) +
           kGroupStrips * kSliceElements * static_cast<int64_t>(sizeof(Operand));
  }
  static LYNX_INLINE int64_t bytes(int64_t rows, int64_t lanes) { return lanes * lane_bytes(rows); }
  LYNX_INLINE float* sums(int64_t lane) const { return reinterpret_cast<float*>(memory + lane * lane_bytes(rows)); }
  LYNX_INLINE Operand* panels(int64_t lane) const {
    return reinterpret_cast<Operand*>(sums(lane) + round_up(rows, kBlockRows) * kGroupStrips * kStripColumns);
  }
};

/// Rows from `begin` on of a source as operands; see gemm_rows.h.
template <class Source>
void fill_rows(const Source& source, int64_t begin, const Rows& out) {
  constexpr int64_t kRowsATask = 32;
  const auto task = [&](int64_t index, int) {
    const int64_t m = index * kRowsATask, count = smaller(out.M - m, kRowsATask);
    source.fill(begin + m, count, out.data + m * out.ld, out.ld);
    const int64_t padding = round_up(out.K, 32) - out.K;
    for (int64_t i = m; padding > 0 && i < m + count; ++i) {
      __builtin_memset(out.data + i * out.ld + out.K, 0, static_cast<size_t>(padding) * sizeof(Operand));
    }
  };
  parallel_for((out.M + kRowsATask - 1) / kRowsATask, task, out.M * out.K > 8192);
}

/// One K block of the strips first .. first + strips of B, and what follows: the next K block, or strip `next` on.
struct Step {
  int64_t first, strips, next, k, depth, K;

  LYNX_INLINE bool is_last() const { return k + depth == K; }
};

/// What the multiplication of one K block fetches of the next: all of each strip, or a half or a quarter where two or
/// four blocks of rows can share the work.
template <class B>
LYNX_INLINE Ahead fetch_share(const B& b, const Step& step, int64_t s, int64_t block, int64_t blocks,
                              const Operand* here) {
  const char* next[2] = {reinterpret_cast<const char*>(here), reinterpret_cast<const char*>(here)};
  const int64_t shares = blocks >= 4 ? 4 : blocks >= 2 ? 2 : 1;
  constexpr int64_t kStepBytes = kStepK * kStripColumns * B::kFetched;
  if (kStepBytes == 0 || block >= shares) return {{next[0], next[1]}, 0};
  const int64_t bytes = kStepBytes / shares, begin = block * bytes * (step.depth / kStepK);
  for (int64_t i = 0; i < kPanelStrips; ++i) next[i] = b.following(step, smaller(s + i, step.strips - 1)) + begin;
  return {{next[0], next[1]}, bytes};
}

/// Columns of the strips first .. last of the product; `next` is the first strip of the task that follows.
template <class B, class Epilogue>
void multiply_strips(const Rows& a, const B& b, int64_t N, int64_t first, int64_t last, int64_t next, float* sums,
                     Operand* panels, const Epilogue& epilogue) {
  const int64_t strips = last - first, width = round_up(strips, kPanelStrips) * kStripColumns;
  const int64_t blocks = (a.M + kBlockRows - 1) / kBlockRows;
  const Operand* slices[kGroupStrips + 1];
  Step step{first, strips, next, 0, 0, round_up(a.K, kStepK)};
  do {
    step.depth = smaller(step.K - step.k, kDepth);
    const bool direct = B::kDirectRows > 0 && a.M <= B::kDirectRows;
    if constexpr (B::kDirectRows > 0) {
      if (direct) b.dot(step, a, sums, width);
    }
    if (!direct) {
      b.prepare(step, panels, slices);
      slices[strips] = slices[strips - 1];  // fills a panel whose second strip does not exist
    }
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t m = block_begin(block, blocks, a.M), end = block_begin(block + 1, blocks, a.M);
      for (int64_t s = 0; !direct && s < strips; s += kPanelStrips) {
        dot_block(end - m, a.data + m * a.ld + step.k, a.ld, slices + s, step.depth,
                  sums + m * width + s * kStripColumns, width, step.k == 0,
                  fetch_share(b, step, s, block, blocks, slices[s]));
      }
      const int64_t n = first * kStripColumns, count = smaller(N - n, strips * kStripColumns);
      for (int64_t i = m; step.is_last() && i < end; ++i) epilogue(i, n, count, sums + i * width);
    }
    step.k += step.depth;
  } while (step.k < step.K);
}

/// The product of rows of operands with B, given to the epilogue from several threads.
template <class B, class Epilogue>
void multiply(const Rows& a, const B& b, int64_t N, const GemmScratch& scratch, const Epilogue& epilogue) {
  const int64_t strips = (N + kStripColumns - 1) / kStripColumns;
  // One panel a task where a task is one pass over B, so that B is read in long runs; else at least eight tasks a lane.
  // Tasks begin at even strips: an epilogue may pair neighbours.
  const int64_t shared = strips / (8 * scratch.lanes) / 2 * 2;
  const int64_t group = a.M <= B::kDirectRows             ? 1
                        : a.M <= kBlockRows || shared < 2 ? 2
                                                          : smaller(shared, B::kMostStrips);
  int64_t taken = 0;
  const auto lane = [&](int64_t index, int) {
    [[maybe_unused]] const TileScope tiles;
    for (int64_t first; (first = __atomic_fetch_add(&taken, group, __ATOMIC_RELAXED)) < strips;) {
      const int64_t following = first + scratch.lanes * group;
      multiply_strips(a, b, N, first, smaller(first + group, strips), following + group <= strips ? following : first,
                      scratch.sums(index), scratch.panels(index), epilogue);
    }
  };
  if (a.M > 0) parallel_for(scratch.lanes, lane, 2.0 * a.M * N * a.K > kSerialWork);
}

}  // namespace lynx::LYNX_ISA
