// AVX2: the text of forward.h over 8 lanes; see README.md.
#include "forward.h"
