// AVX2: the text of forward.h and backward.h over 8 lanes; see README.md.
#include "vector_kernels.h"
