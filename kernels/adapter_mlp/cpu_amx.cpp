// AMX: products on bfloat16 tiles, float32 sums; see README.md.
#include "kernels.h"
