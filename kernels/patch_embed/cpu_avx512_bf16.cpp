// AVX-512 with vdpbf16ps: the text of forward.h on pairs of bfloat16; see README.md.
#include "forward.h"
