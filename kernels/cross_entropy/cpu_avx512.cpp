// AVX-512: the text of cross_entropy.h over 16 lanes; see README.md.
#include "cross_entropy.h"
