// The GIL is given up around CPU work that is longer than about 20 us; below that the hand-over costs more than it helps.
#pragma once
#include <pybind11/pybind11.h>

#include <optional>

namespace lynx {

class ReleaseGil {
 public:
  /// flops: of the whole call; one thread does about 50 per ns, so a million is 20 us.
  explicit ReleaseGil(double flops) {
    constexpr double kWorthReleasing = 1e6;
    if (flops > kWorthReleasing) release_.emplace();
  }

 private:
  std::optional<pybind11::gil_scoped_release> release_;
};

}  // namespace lynx
