// AVX-512: the text of forward.h and backward.h over 16 lanes; see README.md.
#include "vector_kernels.h"
