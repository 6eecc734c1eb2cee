// The C layouts of DLPack 1.x that borrowing a tensor needs (https://dmlc.github.io/dlpack/latest/c_api.html): an ABI
// fixed by its version, so a build needs neither torch nor the dlpack package. Only what csrc/core/tensor.cpp reads.
#pragma once
#include <cstdint>

namespace lynx::dlpack {

enum DeviceType : int32_t { kCPU = 1, kCUDA = 2, kCUDAHost = 3, kCUDAManaged = 13 };
enum TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // in elements; null means contiguous
  uint64_t byte_offset;
};

struct ManagedTensor {
  DLTensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

struct ManagedTensorVersioned {
  Version version;
  void* context;
  void (*deleter)(ManagedTensorVersioned*);
  uint64_t flags;
  DLTensor tensor;
};

constexpr uint64_t kFlagReadOnly = 1;

/// The function table behind `type(tensor).__dlpack_c_exchange_api__`; every framework fills it once.
struct ExchangeApi {
  Version version;
  ExchangeApi* older;
  void* allocator;
  void* managed_tensor_from_object;
  void* managed_tensor_to_object;
  int (*tensor_from_object)(void* object, DLTensor* out);  // borrows: valid while the Python object lives
  void* current_work_stream;
};

}  // namespace lynx::dlpack
