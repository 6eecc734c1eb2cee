// x cos + rotate_half(x) sin for all heads of q and k, and keys and values into a cache; one text for every instruction set.
//
//   y1 = x1 cos1 - x2 sin1        y2 = x2 cos2 + x1 sin2        1 and 2: the halves of a head
//
// Each product is rounded to the tensors' type and then the sum, as the authors' stack rounds (REFERENCE.md section 5.3).
// The tables of a token are read once for all its heads. An output may be the input: both halves are read first.
#pragma once
#include "cpu/loops.h"
#include "cpu/pair.h"
#include "params.h"

namespace lynx::LYNX_ISA {

using rope::Heads;
using rope::Params;

template <class Element>
struct Tables {
  const Element *cos, *sin;
  bool inverse;
};

template <class Element>
LYNX_INLINE Pair rounded_product(Pair a, Pair b) {
  return rounded_as<Element>(both(mul, a, b));
}

template <class Element>
LYNX_INLINE void rotate_heads(const Element* x, int64_t x_stride, Tables<Element> tables, int64_t heads, int64_t D,
                              Element* y, int64_t y_stride) {
  const int64_t half = D / 2;
  for_pairs(half, [&](int64_t i, int64_t n) {
    const Pair cos1 = load_pair(tables.cos + i, n), cos2 = load_pair(tables.cos + half + i, n);
    Pair sin1 = load_pair(tables.sin + i, n), sin2 = load_pair(tables.sin + half + i, n);
    if (tables.inverse) {
      const Pair first = sin1, zeros = both(zero());
      sin1 = both(sub, zeros, sin2), sin2 = both(sub, zeros, first);
    }
    for (int64_t head = 0; head < heads; ++head) {
      const Element* from = x + head * x_stride + i;
      Element* to = y + head * y_stride + i;
      const Pair x1 = load_pair(from, n), x2 = load_pair(from + half, n);
      store_pair(to, both(sub, rounded_product<Element>(x1, cos1), rounded_product<Element>(x2, sin1)), n);
      store_pair(to + half, both(add, rounded_product<Element>(x2, cos2), rounded_product<Element>(x1, sin2)), n);
    }
  });
}

template <class Element>
LYNX_INLINE Element* token_of(const Heads& heads, int64_t b, int64_t s) {
  return static_cast<Element*>(heads.data) + b * heads.batch + s * heads.token;
}

/// The place of a token's keys or values in the output or the cache; null: nowhere.
template <class Element>
LYNX_INLINE Element* place_of(const Params& p, const Heads& out, int64_t b, int64_t s) {
  if (p.places.slots != nullptr) {
    const int64_t slot = p.places.slots[b * p.S + s];
    return slot < 0 ? nullptr : static_cast<Element*>(out.data) + slot * out.token;
  }
  return token_of<Element>(out, b, p.places.starts == nullptr ? s : p.places.starts[b] + s);
}

template <class Element>
LYNX_INLINE void copy_heads(const Element* x, int64_t x_stride, int64_t heads, int64_t D, Element* y,
                            int64_t y_stride) {
  const auto bytes = static_cast<uint64_t>(D) * sizeof(Element);
  if (x_stride == D && y_stride == D) {
    __builtin_memcpy(y, x, bytes * static_cast<uint64_t>(heads));
    return;
  }
  for (int64_t head = 0; head < heads; ++head) __builtin_memcpy(y + head * y_stride, x + head * x_stride, bytes);
}

template <class Element>
void rotate_as(const Params& p) {
  for_rows(p.B * p.S, (p.q_heads + p.k_heads) * p.D, [&](int64_t token) {
    const int64_t b = token / p.S, s = token % p.S, table = b * p.table_batch + s * p.D;
    const Tables<Element> tables{static_cast<const Element*>(p.cos) + table, static_cast<const Element*>(p.sin) + table,
                                 p.inverse};
    rotate_heads(token_of<Element>(p.q, b, s), p.q.head, tables, p.q_heads, p.D, token_of<Element>(p.q_out, b, s),
                 p.q_out.head);
    Element* keys = place_of<Element>(p, p.k_out, b, s);
    if (keys == nullptr) return;
    rotate_heads(token_of<Element>(p.k, b, s), p.k.head, tables, p.k_heads, p.D, keys, p.k_out.head);
    if (p.v.data == nullptr) return;
    copy_heads(token_of<Element>(p.v, b, s), p.v.head, p.k_heads, p.D, place_of<Element>(p, p.v_out, b, s),
               p.v_out.head);
  });
}

namespace {

void run(const Params& p) { p.dtype == DType::f32 ? rotate_as<float>(p) : rotate_as<bf16>(p); }

}  // namespace

extern const rope::Kernels rope_kernels;
const rope::Kernels rope_kernels{dtype_set(DType::f32, DType::bf16), run};

}  // namespace lynx::LYNX_ISA
