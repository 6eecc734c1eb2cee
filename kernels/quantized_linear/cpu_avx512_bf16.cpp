// AVX-512 with VNNI and BF16: bytes multiplied in fours (vpdpbusd), float32 sums; see README.md.
#include "kernels.h"
