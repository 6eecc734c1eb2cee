// AVX-512: the text of forward.h over 16 lanes; see README.md.
#include "forward.h"
