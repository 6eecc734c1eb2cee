// Loops that every op's kernels share: over the vectors of a row, its tail included, and over rows in parallel.
#pragma once
#include "core/parallel.h"
#include "vec.h"

namespace lynx::LYNX_ISA {

/// A whole vector, or the first n < kWidth elements and zeros.
template <class T>
LYNX_INLINE Vec load_some(const T* p, int64_t n) {
  return n >= kWidth ? load(p) : load_tail(p, n);
}
template <class T>
LYNX_INLINE void store_some(T* p, Vec a, int64_t n) {
  n >= kWidth ? store(p, a) : store_tail(p, a, n);
}

/// body(i, n) at i = 0, kWidth, 2 kWidth ... below count; n is kWidth, and in the last step what is left.
template <class Body>
LYNX_INLINE void for_vectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) body(i, kWidth);
  if (i < count) body(i, count - i);
}

/// body(row) for every row, in parallel when there are enough elements of about 1 ns each.
template <class Body>
LYNX_INLINE void for_rows(int64_t rows, int64_t row_elements, const Body& body) {
  constexpr int64_t kTaskElements = 4096;
  const int64_t rows_a_task = row_elements >= kTaskElements ? 1 : kTaskElements / (row_elements + 1) + 1;
  const auto task = [&](int64_t index, int) {
    const int64_t end = (index + 1) * rows_a_task < rows ? (index + 1) * rows_a_task : rows;
    for (int64_t row = index * rows_a_task; row < end; ++row) body(row);
  };
  parallel_for((rows + rows_a_task - 1) / rows_a_task, task, rows * row_elements > 2 * kTaskElements);
}

LYNX_INLINE void assign(float& out, float value) { out = value; }
LYNX_INLINE void assign(bf16& out, float value) { out = to_bf16(value); }

/// out[c][r] = in[r][c]; `ld` counts elements between the rows of `in`, `out` is dense. 32 x 32 blocks stay in L1.
template <class In, class Out>
void transpose(const In* in, int64_t ld, int64_t rows, int64_t columns, Out* out) {
  constexpr int64_t kBlock = 32;
  const auto strip = [&](int64_t index, int) {
    const int64_t begin = index * kBlock, end = begin + kBlock < columns ? begin + kBlock : columns;
    for (int64_t top = 0; top < rows; top += kBlock) {
      const int64_t bottom = top + kBlock < rows ? top + kBlock : rows;
      for (int64_t c = begin; c < end; ++c) {
        for (int64_t r = top; r < bottom; ++r) assign(out[c * rows + r], to_float(in[r * ld + c]));
      }
    }
  };
  parallel_for((columns + kBlock - 1) / kBlock, strip, rows * columns > 8192);
}

/// out[r][c] = in[r][c], converted; `ld` counts elements between the rows of `in`, `out` is dense.
template <class In, class Out>
void copy_rows(const In* in, int64_t ld, int64_t rows, int64_t columns, Out* out) {
  for_rows(rows, columns, [&](int64_t r) {
    for_vectors(columns,
                [&](int64_t i, int64_t n) { store_some(out + r * columns + i, load_some(in + r * ld + i, n), n); });
  });
}

}  // namespace lynx::LYNX_ISA
