// AVX-512: words multiplied in pairs (vpmaddwd), float32 sums; see README.md.
#include "kernels.h"
