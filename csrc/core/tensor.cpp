#include "tensor.h"

#include <sstream>
#include <utility>

namespace lynx {
namespace {

DType dtype_of(const dlpack::DataType& type) {
  if (type.lanes != 1) return DType::unsupported;
  switch (type.code) {
    case dlpack::kFloat:
      return type.bits == 32   ? DType::f32
             : type.bits == 64 ? DType::f64
             : type.bits == 16 ? DType::f16
                               : DType::unsupported;
    case dlpack::kBfloat:
      return type.bits == 16 ? DType::bf16 : DType::unsupported;
    case dlpack::kUInt:
      return type.bits == 8 ? DType::u8 : DType::unsupported;
    case dlpack::kInt:
      return type.bits == 32   ? DType::i32
             : type.bits == 64 ? DType::i64
             : type.bits == 8  ? DType::i8
                               : DType::unsupported;
    case dlpack::kBool:
      return DType::boolean;
    default:
      return DType::unsupported;
  }
}

/// The exchange table of a Python type, or null. The last answer is kept (under the GIL): nearly every call passes
/// tensors of one type, and the attribute look-up costs more than the borrowing.
const dlpack::ExchangeApi* exchange_api_of(PyTypeObject* type) {
  static PyTypeObject* last_type = nullptr;
  static const dlpack::ExchangeApi* last_api = nullptr;
  if (type == last_type) return last_api;
  const dlpack::ExchangeApi* api = nullptr;
  PyObject* capsule = PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  if (capsule != nullptr) {
    api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    Py_DECREF(capsule);
  }
  PyErr_Clear();
  while (api != nullptr && api->version.major != 1) api = api->older;
  if (api != nullptr && api->tensor_from_object == nullptr) api = nullptr;
  Py_INCREF(type);  // its address must not be given to another type while it is remembered
  Py_XDECREF(last_type);
  last_type = type;
  last_api = api;
  return api;
}

PyObject* call_dlpack(PyObject* object, bool versioned) {
  PyObject* method = PyObject_GetAttrString(object, "__dlpack__");
  if (method == nullptr) return nullptr;
  PyObject* arguments = PyTuple_New(0);
  PyObject* keywords = versioned ? Py_BuildValue("{s:(ii)}", "max_version", 1, 0) : nullptr;
  PyObject* capsule = PyObject_Call(method, arguments, keywords);
  Py_XDECREF(keywords);
  Py_DECREF(arguments);
  Py_DECREF(method);
  return capsule;
}

}  // namespace

Tensor::Tensor(Tensor&& other) noexcept { *this = std::move(other); }

Tensor& Tensor::operator=(Tensor&& other) noexcept {
  if (this == &other) return *this;
  release();
  view_ = other.view_;
  dtype_ = other.dtype_;
  read_only_ = other.read_only_;
  owner_ = std::exchange(other.owner_, nullptr);
  versioned_owner_ = std::exchange(other.versioned_owner_, nullptr);
  return *this;
}

Tensor::~Tensor() { release(); }

void Tensor::release() {
  if (owner_ != nullptr && owner_->deleter != nullptr) owner_->deleter(owner_);
  if (versioned_owner_ != nullptr && versioned_owner_->deleter != nullptr) versioned_owner_->deleter(versioned_owner_);
  owner_ = nullptr;
  versioned_owner_ = nullptr;
}

bool Tensor::borrow(PyObject* object) {
  release();
  read_only_ = false;
  const dlpack::ExchangeApi* api = exchange_api_of(Py_TYPE(object));
  const bool borrowed = api != nullptr ? api->tensor_from_object(object, &view_) == 0 : borrow_capsule(object);
  if (!borrowed) {
    PyErr_Clear();
    return false;
  }
  dtype_ = dtype_of(view_.dtype);
  return true;
}

bool Tensor::borrow_capsule(PyObject* object) {
  PyObject* capsule = call_dlpack(object, true);
  if (capsule == nullptr && PyErr_ExceptionMatches(PyExc_TypeError)) {  // a producer from before DLPack 1.0
    PyErr_Clear();
    capsule = call_dlpack(object, false);
  }
  if (capsule == nullptr) return false;
  const bool opened = open_capsule(capsule);
  Py_DECREF(capsule);
  return opened;
}

bool Tensor::open_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, "dltensor_versioned")) {
    auto* managed = static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(capsule, "dltensor_versioned"));
    if (managed->version.major != 1) return false;
    PyCapsule_SetName(capsule, "used_dltensor_versioned");
    versioned_owner_ = managed;
    view_ = managed->tensor;
    read_only_ = (managed->flags & dlpack::kFlagReadOnly) != 0;
    return true;
  }
  if (!PyCapsule_IsValid(capsule, "dltensor")) return false;
  owner_ = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule, "dltensor"));
  PyCapsule_SetName(capsule, "used_dltensor");
  view_ = owner_->tensor;
  return true;
}

int64_t Tensor::stride(int axis) const {
  const int index = axis < 0 ? view_.ndim + axis : axis;
  if (view_.strides != nullptr) return view_.strides[index];
  int64_t distance = 1;
  for (int i = view_.ndim - 1; i > index; --i) distance *= view_.shape[i];
  return distance;
}

int64_t Tensor::numel() const {
  int64_t count = 1;
  for (int i = 0; i < view_.ndim; ++i) count *= view_.shape[i];
  return count;
}

bool Tensor::is_contiguous() const {
  if (view_.strides == nullptr || numel() == 0) return true;
  int64_t distance = 1;
  for (int i = view_.ndim - 1; i >= 0; --i) {
    if (view_.shape[i] != 1 && view_.strides[i] != distance) return false;
    distance *= view_.shape[i];
  }
  return true;
}

std::string Tensor::shape_text() const {
  std::ostringstream text;
  text << '[';
  for (int i = 0; i < view_.ndim; ++i) text << (i > 0 ? ", " : "") << view_.shape[i];
  text << ']';
  return text.str();
}

}  // namespace lynx
