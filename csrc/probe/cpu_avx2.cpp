#include "fma.h"

namespace lynx::avx2 {

constexpr probe::Peak kPeaks[] = {{"float32", [] { return cpu_features().avx2; }, fma_float32}};
extern const probe::Peaks probe_peaks{kPeaks, kPeaks + 1};

}  // namespace lynx::avx2
