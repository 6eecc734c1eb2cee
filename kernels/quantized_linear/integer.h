// y = x W^T in integers: rows of x and codes of W multiplied exactly, block by block of K, summed in float32.
//
//   sum over blocks b of  (sum of integers of x * (byte - 128)) * (scale of the row in b * scale of the column in b)
//
// The blocking is csrc/cpu/gemm.h's: tasks of strips, K in slices that stay in L2, blocks of rows that stay in L1.
// One block of rows reads 4-bit codes as they come (decoding streams them once); for more, a slice is made bytes first.
// The arithmetic is the same, and within a block exact: an element does not depend on the other rows, nor on the ISA.
#pragma once
#include "cpu/linear_epilogue.h"
#include "rows.h"

namespace lynx::LYNX_ISA {
namespace {

using quantized_linear::kMaxBlock;
using quantized_linear::Weight;

constexpr int64_t kSliceDepth = 1024;  // values of k a slice: a strip's bytes take 16 KB
constexpr int64_t kSliceBytes = kSliceDepth * kStripColumns;

LYNX_INLINE int64_t block_of(const Weight& weight) { return weight.group < kMaxBlock ? weight.group : kMaxBlock; }
LYNX_INLINE int64_t code_bytes(const Weight& weight, int64_t depth) {
  return depth * kStripColumns / (weight.nibbles ? 2 : 1);
}
/// The strips from `first` on, the last one again where there are less than S; from `bytes` if a slice lies there as bytes,
/// else from `skipped` bytes into each strip.
template <int S>
LYNX_INLINE Panel<S> panel_at(const Weight& weight, int64_t first, int64_t end, int64_t skipped, const uint8_t* bytes) {
  const int64_t groups = weight.depth / weight.group, strip_bytes = code_bytes(weight, weight.depth);
  Panel<S> panel{{}, {}, weight.group / block_of(weight), 0, (S - 1) * groups * kStripColumns};
  for (int i = 0; i < S; ++i) {
    const int64_t s = smaller(i, end - first - 1);
    panel.codes[i] = bytes != nullptr ? bytes + s * kSliceBytes : weight.codes + (first + s) * strip_bytes + skipped;
    panel.scales[i] = static_cast<const bf16*>(weight.scales) + (first + s) * groups * kStripColumns;
  }
  if (bytes == nullptr) panel.skipped_codes = (S - 1) * strip_bytes;
  return panel;
}

template <int S, class Codes>
LYNX_INLINE void dot_block(int64_t rows, const QuantRows& a, int64_t m, int64_t first, int64_t last,
                           const Panel<S>& panel, const Codes& kind, float* sums, int64_t ld) {
#define LYNX_ROWS(R)                                                                                              \
  case R:                                                                                                         \
    if constexpr (R <= kQuantRows && S == quant_strips(R)) dot_rows<R>(a, m, first, last, panel, kind, sums, ld); \
    return;
  switch (rows) {
    LYNX_ROWS(1)
    LYNX_ROWS(2)
    LYNX_ROWS(3)
    LYNX_ROWS(4)
    LYNX_ROWS(5)
    LYNX_ROWS(6)
    LYNX_ROWS(7)
    LYNX_ROWS(8)
    LYNX_ROWS(9)
    LYNX_ROWS(10)
    LYNX_ROWS(11)
    LYNX_ROWS(12)
  }
#undef LYNX_ROWS
}

/// A slice of a strip of 4-bit codes as bytes.
LYNX_INLINE void unpack_codes(const uint8_t* codes, int64_t bytes, const NibbleCodes& kind, uint8_t* out) {
  constexpr int64_t kBytes = sizeof(Ints);
  for (int64_t i = 0; i < bytes; i += kBytes) {
    Ints fours[2];
    _mm_prefetch(codes + i + kAheadBytes, _MM_HINT_T0);
    kind.load(codes + i, fours);
    const int64_t at = i / 64 * 128 + i % 64;
    store_ints(reinterpret_cast<int32_t*>(out + at), fours[0]);
    store_ints(reinterpret_cast<int32_t*>(out + at + 64), fours[1]);
  }
}

/// Scratch of one lane: sums of all rows, and the bytes of a task's slices.
struct IntegerScratch {
  std::byte* memory;
  int64_t rows;

  static LYNX_INLINE int64_t lane_bytes(int64_t rows) {
    return kGroupStrips * (rows * kStripColumns * static_cast<int64_t>(sizeof(float)) + kSliceBytes);
  }
  LYNX_INLINE float* sums(int64_t lane) const { return reinterpret_cast<float*>(memory + lane * lane_bytes(rows)); }
  LYNX_INLINE uint8_t* bytes(int64_t lane) const {
    return reinterpret_cast<uint8_t*>(sums(lane) + rows * kGroupStrips * kStripColumns);
  }
};

/// Columns of the strips begin .. end of the product, S at a time.
template <int S, class Epilogue>
void multiply_codes(const QuantRows& a, const Weight& weight, int64_t N, int64_t begin, int64_t end, float* sums,
                    uint8_t* bytes, const Epilogue& epilogue) {
  const NibbleCodes nibbles(quantized_linear::kCodebook);
  const int64_t strips = end - begin, width = round_up(strips, S) * kStripColumns;
  const int64_t row_blocks = quant_blocks(a.M), blocks = a.depth / a.block;
  const int64_t slice = row_blocks == 1 ? blocks : kSliceDepth / a.block;
  const bool unpack = weight.nibbles && row_blocks > 1;
  for (int64_t b = 0; b < blocks; b += slice) {
    const int64_t last = smaller(b + slice, blocks), skipped = code_bytes(weight, b * a.block);
    for (int64_t s = 0; unpack && s < strips; ++s) {
      const uint8_t* codes = weight.codes + (begin + s) * code_bytes(weight, weight.depth) + skipped;
      unpack_codes(codes, code_bytes(weight, (last - b) * a.block), nibbles, bytes + s * kSliceBytes);
    }
    for (int64_t block = 0; block < row_blocks; ++block) {
      const int64_t m = quant_begin(block, a.M), rows = quant_begin(block + 1, a.M) - m;
      for (int64_t s = 0; s < strips; s += S) {
        const auto panel = panel_at<S>(weight, begin + s, end, skipped, unpack ? bytes + s * kSliceBytes : nullptr);
        float* out = sums + m * width + s * kStripColumns;
        if (weight.nibbles && !unpack) {
          dot_block(rows, a, m, b, last, panel, nibbles, out, width);
        } else {
          dot_block(rows, a, m, b, last, panel, ByteCodes{}, out, width);
        }
      }
      const int64_t n = begin * kStripColumns, count = smaller(N - n, strips * kStripColumns);
      for (int64_t i = m; last == blocks && i < m + rows; ++i) epilogue(i, n, count, sums + i * width);
    }
  }
}

/// At most kChunkRows rows at a time, in equal parts.
LYNX_INLINE int64_t integer_chunk(int64_t rows) {
  const int64_t chunks = (rows + kChunkRows - 1) / kChunkRows;
  return chunks == 0 ? 0 : (rows + chunks - 1) / chunks;
}

LYNX_INLINE QuantRows take_rows(Arena& arena, int64_t rows, const Weight& weight) {
  const int64_t block = block_of(weight), blocks = weight.depth / block;
  auto* data = arena.take<QuantOperand>(rows * weight.depth);
  auto* scales = arena.take<float>(rows * blocks);
  return {data, scales, arena.take<int32_t>(rows * blocks), rows, weight.depth, block};
}

int64_t integer_workspace(const quantized_linear::ForwardParams& p) {
  Arena arena(nullptr);
  const int64_t chunk = integer_chunk(p.M);
  take_rows(arena, chunk, p.weight);
  arena.take<std::byte>(p.lanes * IntegerScratch::lane_bytes(chunk));
  return reinterpret_cast<int64_t>(arena.take<std::byte>(0));
}

template <class T>
void integer_forward_as(const quantized_linear::ForwardParams& p) {
  const LinearCall& call = p;
  const int64_t chunk = integer_chunk(call.M), matrices = call.activation == Activation::gated_silu ? 2 : 1;
  const int64_t strips = (call.N + kStripColumns - 1) / kStripColumns * matrices;
  const int64_t columns = matrices == 2 ? strips * kStripColumns : call.N;
  Arena arena(call.workspace);
  QuantRows rows = take_rows(arena, chunk, p.weight);
  const IntegerScratch scratch{arena.take<std::byte>(0), chunk};
  const LinearEpilogue<T> epilogue{call};
  for (int64_t done = 0; done < call.M; done += chunk) {
    rows.M = smaller(chunk, call.M - done);
    const auto* x = static_cast<const T*>(call.x) + done * call.x_stride;
    const auto fill = [&](int64_t index, int) {
      const int64_t m = quant_begin(index, rows.M);
      quantize_rows(x + m * call.x_stride, call.x_stride, call.K, m, quant_begin(index + 1, rows.M) - m, rows);
    };
    parallel_for(quant_blocks(rows.M), fill, rows.M * call.K > 8192);
    // As in gemm.h: a panel a task where one pass over the weight is all, else at least eight tasks a lane; even numbers,
    // as a gated epilogue pairs neighbours.
    const int64_t shared = strips / (8 * call.lanes) / 2 * 2;
    const int64_t group =
        rows.M <= kQuantRows || shared < 2 ? larger(2, quant_strips(rows.M)) : smaller(shared, kGroupStrips);
    const auto task = [&](int64_t index, int worker) {
      const auto give = [&](int64_t m, int64_t n, int64_t count, const float* sums)
                            __attribute__((always_inline)) { epilogue(done + m, n, count, sums); };
      (rows.M <= kFewRows
           ? multiply_codes<quant_strips(1), decltype(give)>
           : multiply_codes<quant_strips(kQuantRows), decltype(give)>)(rows, p.weight, columns, index * group,
                                                                       smaller((index + 1) * group, strips),
                                                                       scratch.sums(worker), scratch.bytes(worker),
                                                                       give);
    };
    parallel_for((strips + group - 1) / group, task, 2.0 * rows.M * columns * call.K > kSerialWork);
  }
}

}  // namespace
}  // namespace lynx::LYNX_ISA
