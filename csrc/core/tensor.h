// A tensor borrowed from Python for the time of one call: any object with DLPack's C exchange table (torch, 70 ns) or with
// `__dlpack__` (NumPy, CuPy, JAX; 2 us).
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "dlpack.h"
#include "dtype.h"

namespace lynx {

class Tensor {
 public:
  Tensor() = default;
  Tensor(Tensor&& other) noexcept;
  Tensor& operator=(Tensor&& other) noexcept;
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor();

  /// Borrows `object`; false if it is not a tensor at all.
  bool borrow(PyObject* object);

  int ndim() const { return view_.ndim; }
  /// Length of an axis; negative axes count from the end.
  int64_t size(int axis) const { return view_.shape[axis < 0 ? view_.ndim + axis : axis]; }
  const int64_t* shape() const { return view_.shape; }
  /// Distance of neighbours along an axis, in elements.
  int64_t stride(int axis) const;
  int64_t numel() const;
  DType dtype() const { return dtype_; }
  bool on_cpu() const { return view_.device.type == dlpack::kCPU || view_.device.type == dlpack::kCUDAHost; }
  /// Row-major without gaps; axes of length 1 may have any stride.
  bool is_contiguous() const;
  bool read_only() const { return read_only_; }
  std::string shape_text() const;

  /// First element; the caller has checked the dtype.
  template <class T>
  T* data() const {
    return static_cast<T*>(address());
  }
  void* address() const { return static_cast<char*>(view_.data) + view_.byte_offset; }

 private:
  bool borrow_capsule(PyObject* object);
  bool open_capsule(PyObject* capsule);
  void release();

  dlpack::DLTensor view_{};
  DType dtype_ = DType::unsupported;
  bool read_only_ = false;
  dlpack::ManagedTensor* owner_ = nullptr;
  dlpack::ManagedTensorVersioned* versioned_owner_ = nullptr;
};

}  // namespace lynx

namespace pybind11::detail {

template <>
struct type_caster<lynx::Tensor> {
  PYBIND11_TYPE_CASTER(lynx::Tensor, const_name("Tensor"));
  bool load(handle source, bool) { return value.borrow(source.ptr()); }
};

}  // namespace pybind11::detail
