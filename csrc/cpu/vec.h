// float32 vectors under one vocabulary: an op's inner loops are written once, over `Vec` and `kWidth` lanes.
//
//   load / load_tail     float, bf16, uint8 or int8 memory to float32 lanes; a tail of n lanes reads n elements, the rest are 0
//   store / store_tail   float32 lanes to float or bf16 memory (to nearest, ties to even); a tail writes n elements
//   set1 zero add sub mul div reciprocal coarse_reciprocal within fma fnma vmax vmin zero_where_equal where_negative hsum hmax vexp silu gelu
//   arithmetic
//
// hsum and hmax combine lanes in one fixed order: a result does not depend on thread count or batch.
#pragma once
#include "isa.h"

#if defined(__AVX512F__)
#include "vec_avx512.h"
#else
#include "vec_avx2.h"
#endif

#include "vec_math.h"
