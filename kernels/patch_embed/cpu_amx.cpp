// AMX: the text of forward.h on tiles; see README.md.
#include "forward.h"
