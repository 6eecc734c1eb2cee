// AVX-512: the text of swiglu.h over 16 lanes; see README.md.
#include "swiglu.h"
