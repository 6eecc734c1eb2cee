// AVX-512: the text of rope.h over 16 lanes; see README.md.
#include "rope.h"
