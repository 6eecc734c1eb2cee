// The primitives of tile.h in AVX-512, equal to the instructions to the last bit (NaN payloads excepted).
//
// Follows the operation sections of the Intel SDM, volume 2: LDTILECFG, TILEZERO, TILELOADD, TILESTORED, TDPBF16PS.
// What raises an exception on hardware (an unconfigured tile, shapes that do not fit) traps here with SIGILL as well.
#pragma once
#include <immintrin.h>

#include <cstdint>

#include "isa.h"

namespace lynx::LYNX_ISA {

struct alignas(64) Tile {
  uint8_t rows[kTileRows][kTileBytes];
};
struct TileFile {
  TileConfig config;
  Tile tile[kTileCount];
};
inline thread_local TileFile tile_file{};

LYNX_INLINE void fault_unless(bool valid) {
  if (!valid) __builtin_trap();
}
LYNX_INLINE int rows_of(int t) { return tile_file.config.rows[t]; }
LYNX_INLINE int bytes_of(int t) { return tile_file.config.row_bytes[t]; }
LYNX_INLINE bool is_configured(int t) { return rows_of(t) > 0 && bytes_of(t) > 0; }
LYNX_INLINE void clear(int t) { __builtin_memset(&tile_file.tile[t], 0, sizeof(Tile)); }

/// Takes the shapes and clears every tile. A row count above 16 or more than 64 bytes a row faults.
inline void tile_config(const TileConfig& config) {
  fault_unless(config.palette == 1 && config.start_row == 0);
  for (int t = 0; t < kTileCount; ++t) {
    fault_unless(config.rows[t] <= kTileRows && config.row_bytes[t] <= kTileBytes);
    fault_unless((config.rows[t] == 0) == (config.row_bytes[t] == 0));
    clear(t);
  }
  tile_file.config = config;
}

/// Back to the initial state: no tile has a shape.
inline void tile_release() { tile_file = TileFile{}; }

template <int T>
LYNX_INLINE void tile_zero() {
  fault_unless(is_configured(T));
  clear(T);
}

inline void load_rows(int t, const void* rows, int64_t stride) {
  fault_unless(is_configured(t));
  clear(t);
  for (int r = 0; r < rows_of(t); ++r) {
    __builtin_memcpy(tile_file.tile[t].rows[r], static_cast<const uint8_t*>(rows) + r * stride, bytes_of(t));
  }
}

inline void store_rows(int t, void* rows, int64_t stride) {
  fault_unless(is_configured(t));
  for (int r = 0; r < rows_of(t); ++r) {
    __builtin_memcpy(static_cast<uint8_t*>(rows) + r * stride, tile_file.tile[t].rows[r], bytes_of(t));
  }
}

template <int T>
LYNX_INLINE void tile_load(const void* rows, int64_t stride) {
  load_rows(T, rows, stride);
}
template <int T>
LYNX_INLINE void tile_store(void* rows, int64_t stride) {
  store_rows(T, rows, stride);
}

/// One row of C: even and odd elements of the pairs are summed apart, each by a chain of fused multiply-adds from 0 in
/// the order of k; then even + odd; then C + that. The caller has set rounding and flushing.
inline void dp_row_bf16(Tile& c, const Tile& a, const Tile& b, int m, int pairs, int columns) {
  __m512 even = _mm512_setzero_ps();
  __m512 odd = _mm512_setzero_ps();
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  for (int k = 0; k < pairs; ++k) {
    uint32_t a_pair;
    __builtin_memcpy(&a_pair, a.rows[m] + 4 * k, sizeof a_pair);
    const __m512i b_pairs = _mm512_load_si512(b.rows[k]);
    const __m512i a_even = _mm512_set1_epi32(static_cast<int>(a_pair << 16));
    const __m512i a_odd = _mm512_set1_epi32(static_cast<int>(a_pair & 0xffff0000u));
    const __m512i b_even = _mm512_slli_epi32(b_pairs, 16);
    const __m512i b_odd = _mm512_and_si512(b_pairs, upper);
    even = _mm512_fmadd_ps(_mm512_castsi512_ps(a_even), _mm512_castsi512_ps(b_even), even);
    odd = _mm512_fmadd_ps(_mm512_castsi512_ps(a_odd), _mm512_castsi512_ps(b_odd), odd);
  }
  const __mmask16 in_row = static_cast<__mmask16>((1u << columns) - 1);
  const __m512 sum = _mm512_add_ps(_mm512_load_ps(c.rows[m]), _mm512_add_ps(even, odd));
  _mm512_store_ps(c.rows[m], _mm512_maskz_mov_ps(in_row, sum));
}

/// Out of line, so that no arithmetic moves over the writes of MXCSR around it.
__attribute__((noinline)) inline void dp_bf16(int c, int a, int b) {
  fault_unless(is_configured(a) && is_configured(b) && is_configured(c));
  fault_unless(rows_of(c) == rows_of(a) && bytes_of(c) == bytes_of(b) && bytes_of(a) == 4 * rows_of(b));
  fault_unless(bytes_of(c) % 4 == 0);
  for (int m = 0; m < rows_of(c); ++m) {
    dp_row_bf16(tile_file.tile[c], tile_file.tile[a], tile_file.tile[b], m, rows_of(b), bytes_of(c) / 4);
  }
}

/// TDPBF16PS neither reads nor writes MXCSR: it rounds to nearest even, flushes denormals and raises nothing.
inline void dp_bf16_flushed(int c, int a, int b) {
  constexpr unsigned kFlushMaskAllNearest = 0x9fc0;  // FTZ, every exception masked, round to nearest even, DAZ
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(kFlushMaskAllNearest);
  asm volatile("" ::: "memory");
  dp_bf16(c, a, b);
  asm volatile("" ::: "memory");
  _mm_setcsr(saved);
}

template <int C, int A, int B>
LYNX_INLINE void tile_dp_bf16() {
  static_assert(C != A && C != B && A != B, "tdpbf16ps needs three different tiles");
  dp_bf16_flushed(C, A, B);
}

}  // namespace lynx::LYNX_ISA
