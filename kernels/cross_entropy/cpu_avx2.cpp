// AVX2: the text of cross_entropy.h over 8 lanes; see README.md.
#include "cross_entropy.h"
