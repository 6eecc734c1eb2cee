// AVX-512 with AVX512_BF16: products of bfloat16 pairs by vdpbf16ps, float32 sums; see README.md.
#include "kernels.h"
