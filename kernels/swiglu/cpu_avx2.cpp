// AVX2: the text of swiglu.h over 8 lanes; see README.md.
#include "swiglu.h"
