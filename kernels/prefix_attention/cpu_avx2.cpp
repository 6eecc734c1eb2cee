// AVX2: the text of forward.h and backward.h over 8 lanes; see README.md.
#include "vector_kernels.h"

namespace lynx::LYNX_ISA {
extern const lynx::prefix_attention::Kernels prefix_attention_kernels = prefix_attention::kVectorKernels;
}  // namespace lynx::LYNX_ISA
