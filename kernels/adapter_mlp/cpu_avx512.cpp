// AVX-512: float32 products of float32 or widened bfloat16 numbers; see README.md.
#include "kernels.h"
