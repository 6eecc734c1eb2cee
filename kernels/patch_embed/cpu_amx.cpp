// AMX: the text of forward.h with bfloat16 patches multiplied on tiles; see README.md.
#include "forward.h"

namespace lynx::LYNX_ISA {

extern const patch_embed::Kernels patch_embed_kernels;
const patch_embed::Kernels patch_embed_kernels{dtype_set(DType::bf16), workspace_bytes<bf16>, run_as<bf16, bf16>};

}  // namespace lynx::LYNX_ISA
