// _C.peak and _C.stream: what this machine can compute and move at most, for bench/ceilings.py.
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "probe.h"
#include "probe_backends.h"

namespace py = pybind11;

namespace lynx {

#define LYNX_DECLARE(isa)                \
  namespace isa {                        \
  extern const probe::Peaks probe_peaks; \
  }
LYNX_BACKENDS(LYNX_DECLARE)
#undef LYNX_DECLARE

namespace {

using Clock = std::chrono::steady_clock;
constexpr int64_t kLine = 64;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

/// Operations a second of all threads. Many short tasks, so that a thread that starts late costs little.
double rate(const probe::Peak& peak, double seconds) {
  const int64_t tasks = 32 * num_threads();
  int64_t rounds = 1000;
  for (;; rounds *= 2) {
    const auto begin = Clock::now();
    double operations = 0;
    std::vector<double> done(tasks);
    parallel_for(tasks, [&](int64_t task, int) { done[task] = peak.run(rounds); });
    const double took = seconds_since(begin);
    for (const double part : done) operations += part;
    if (took >= seconds) return operations / took;
  }
}

py::dict peaks(double seconds) {
  py::dict found;
  const auto add = [&](const char* isa, const probe::Peaks& all) {
    for (const probe::Peak* peak = all.begin; peak != all.end; ++peak) {
      if (!peak->runs_here()) continue;
      const py::str name = std::string(isa) + " " + peak->dtype;
      double operations = 0;
      {
        const py::gil_scoped_release release;
        operations = rate(*peak, seconds);
      }
      found[name] = operations;
    }
  };
#define LYNX_ADD(isa) add(#isa, isa::probe_peaks);
  LYNX_BACKENDS(LYNX_ADD)
#undef LYNX_ADD
  return found;
}

/// body(first byte, end) over equal parts of [0, bytes), and how many bytes a second that was.
template <class Body>
double stream_rate(int64_t bytes, const Body& body) {
  const py::gil_scoped_release release;
  const int64_t parts = 8 * num_threads(), part = (bytes / parts) / kLine * kLine;
  const auto begin = Clock::now();
  parallel_for(parts, [&](int64_t index, int) { body(index * part, (index + 1) * part); });
  return static_cast<double>(part * parts) / seconds_since(begin);
}

/// Bytes a second at which all threads read `tensor` once.
double read_rate(const Tensor& tensor) {
  const auto* words = tensor.data<const uint64_t>();
  return stream_rate(tensor.numel(), [&](int64_t begin, int64_t end) {
    uint64_t all[8] = {};
    for (int64_t i = begin / 8; i < end / 8; i += 8) {
      for (int lane = 0; lane < 8; ++lane) all[lane] ^= words[i + lane];
    }
    volatile uint64_t kept = all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7];
    (void)kept;
  });
}

/// Bytes a second read plus written when all threads copy `from` to `to`.
double copy_rate(const Tensor& from, const Tensor& to) {
  const auto* source = from.data<const char>();
  auto* target = to.data<char>();
  return 2 * stream_rate(from.numel(), [&](int64_t begin, int64_t end) {
           std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
         });
}

void expect_bytes(const char* name, const Tensor& tensor) {
  if (tensor.dtype() != DType::u8 || !tensor.on_cpu() || !tensor.is_contiguous()) {
    throw Error(std::string("probe: ") + name + " must be contiguous uint8 in CPU memory");
  }
}

}  // namespace

void bind_probe(py::module_& m) {
  m.def("peaks", peaks, py::arg("seconds"), "Operations a second by \"isa dtype\", each measured for that long.");
  m.def(
      "read_rate",
      [](const Tensor& tensor) {
        expect_bytes("tensor", tensor);
        return read_rate(tensor);
      },
      py::arg("tensor"), "Bytes a second at which all threads read a uint8 tensor once.");
  m.def(
      "copy_rate",
      [](const Tensor& from, const Tensor& to) {
        expect_bytes("source", from);
        expect_bytes("target", to);
        if (from.numel() != to.numel()) throw Error("probe: source and target must have one size");
        return copy_rate(from, to);
      },
      py::arg("source"), py::arg("target"), "Bytes a second, read plus written, of a parallel copy.");
}

}  // namespace lynx
