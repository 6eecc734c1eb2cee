// AVX2: the text of rope.h over 8 lanes; see README.md.
#include "rope.h"
