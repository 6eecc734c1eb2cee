// How an op's bind.cpp shows its backends to Python: _C.backends[entry][isa] = (function, names of its dtypes).
// Python makes registry backends `cpu_<isa>` of them (lynx_engine/native.py).
#pragma once
#include <pybind11/pybind11.h>

#include <utility>

#include "dtype.h"

namespace lynx {

inline pybind11::tuple dtype_names(uint32_t dtypes) {
  pybind11::list names;
  for (int i = 0; i < static_cast<int>(DType::unsupported); ++i) {
    if (dtypes >> i & 1) names.append(name(static_cast<DType>(i)));
  }
  return pybind11::tuple(names);
}

template <class Function>
void add_backend(pybind11::module_& m, const char* entry, const char* isa, uint32_t dtypes, Function&& function) {
  if (!pybind11::hasattr(m, "backends")) m.attr("backends") = pybind11::dict();
  pybind11::dict entries = m.attr("backends");
  if (!entries.contains(entry)) entries[entry] = pybind11::dict();
  pybind11::dict backends = entries[entry];
  backends[isa] = pybind11::make_tuple(pybind11::cpp_function(std::forward<Function>(function), pybind11::name(entry)),
                                       dtype_names(dtypes));
}

}  // namespace lynx
