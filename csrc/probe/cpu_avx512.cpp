#include "fma.h"

namespace lynx::avx512 {

constexpr probe::Peak kPeaks[] = {{"float32", [] { return cpu_features().avx512; }, fma_float32}};
extern const probe::Peaks probe_peaks{kPeaks, kPeaks + 1};

}  // namespace lynx::avx512
