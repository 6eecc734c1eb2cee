// lynx_engine._C: the table of contents. One bind_<op> line an op; each is defined in kernels/<op>/bind.cpp.
#include <pybind11/pybind11.h>

namespace lynx {
void bind_core(pybind11::module_& m);
void bind_adapter_mlp(pybind11::module_& m);
void bind_cross_entropy(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_norm(pybind11::module_& m);
void bind_patch_embed(pybind11::module_& m);
void bind_prefix_attention(pybind11::module_& m);
void bind_probe(pybind11::module_& m);
void bind_quantized_linear(pybind11::module_& m);
void bind_rope(pybind11::module_& m);
void bind_swiglu(pybind11::module_& m);
}  // namespace lynx

PYBIND11_MODULE(_C, m) {
  lynx::bind_core(m);
  lynx::bind_adapter_mlp(m);
  lynx::bind_cross_entropy(m);
  lynx::bind_linear(m);
  lynx::bind_norm(m);
  lynx::bind_patch_embed(m);
  lynx::bind_prefix_attention(m);
  lynx::bind_probe(m);
  lynx::bind_quantized_linear(m);
  lynx::bind_rope(m);
  lynx::bind_swiglu(m);
}
