// Names the instruction set that this file is compiled for, from the compiler's own flags.
//
// A file `cpu_<isa>.cpp` is compiled with that instruction set's flags only, and everything it takes from csrc/cpu/ is in
// `lynx::LYNX_ISA`. The linker keeps one copy of an inline function that several files define: without a namespace of
// its own, the AVX-512 copy of a helper could be the one that an AVX2 machine runs. For the same reason these headers
// and the files that include them use no function of the standard library that might not be inlined.
#pragma once

#if defined(LYNX_EMULATE_TILES)
#define LYNX_ISA amx_emulated
#define LYNX_HAS_TILES
#elif (defined(__AMX_TILE__) && defined(__AMX_BF16__)) || (defined(__AMXTILE__) && defined(__AMXBF16__))  // clang 14
#define LYNX_ISA amx
#define LYNX_HAS_TILES
#elif defined(__AVX512BF16__)
#define LYNX_ISA avx512_bf16
#elif defined(__AVX512F__)
#define LYNX_ISA avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define LYNX_ISA avx2
#else
#error "compile this file for AVX2 and FMA at least (see csrc/cpu/README.md)"
#endif

#define LYNX_INLINE inline __attribute__((always_inline))
