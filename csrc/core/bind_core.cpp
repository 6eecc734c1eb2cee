#include <pybind11/pybind11.h>

#include "cpu_features.h"
#include "error.h"
#include "parallel.h"
#include "tensor.h"
#include "workspace.h"

namespace py = pybind11;

namespace lynx {
namespace {

void raise_as_lynx_error(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const Error& e) {
    py::set_error(py::module_::import("lynx_engine.errors").attr("LynxError"), e.what());
  }
}

py::dict features() {
  const CpuFeatures& found = cpu_features();
  py::dict result;
  result["avx2"] = found.avx2;
  result["avx512"] = found.avx512;
  result["avx512_bf16"] = found.avx512_bf16;
  result["amx"] = found.amx;
  return result;
}

py::dict describe(const Tensor& tensor) {
  py::list shape, strides;
  for (int i = 0; i < tensor.ndim(); ++i) {
    shape.append(tensor.size(i));
    strides.append(tensor.stride(i));
  }
  py::dict result;
  result["shape"] = py::tuple(shape);
  result["strides"] = py::tuple(strides);
  result["dtype"] = name(tensor.dtype());
  result["address"] = reinterpret_cast<uintptr_t>(tensor.address());
  return result;
}

}  // namespace

void bind_core(py::module_& m) {
  py::register_exception_translator(raise_as_lynx_error);
  m.def("cpu_features", features, "Instruction sets that this processor and operating system allow.");
  m.def("num_threads", num_threads);
  m.def("set_num_threads", set_num_threads, py::arg("n"));
  m.def("poison_workspaces", poison_workspaces, py::arg("on"), "Tests: kernels find NaN in their scratch memory.");
  m.def("describe", describe, py::arg("tensor"), "What a kernel sees of a tensor: shape, strides, dtype, address.");
}

}  // namespace lynx
