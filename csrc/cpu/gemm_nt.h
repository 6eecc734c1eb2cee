// gemm_nt(a, lda, b, ldb, M, N, K, scratch, epilogue): A [M, K] times B [N, K] transposed, both contiguous along K.
//
// Calls epilogue(m, n, count, sums) for row segments of the float32 product: sums[0..count) are columns n..n+count of row
// m; every element is in one segment, and segments come from several threads. Leading dimensions count elements.
// `scratch` has gemm_nt_scratch<A>(M, K) bytes. An element's value depends on its own two rows alone: not on M, N, the
// thread count or its place in a block. With a float32 A, B is float32 or bfloat16; on AMX both are bfloat16.
#pragma once
#include "isa.h"

#if defined(LYNX_HAS_TILES)
#include "gemm_nt_bf16.h"
#else
#include "gemm_nt_f32.h"
#endif
