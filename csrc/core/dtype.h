// Element types that kernels take, under torch's names.
#pragma once
#include <cstdint>

namespace lynx {

enum class DType : uint8_t { f32, f64, f16, bf16, u8, i8, i32, i64, boolean, unsupported };

constexpr const char* name(DType dtype) {
  constexpr const char* names[] = {"float32", "float64", "float16", "bfloat16", "uint8",
                                   "int8",    "int32",   "int64",   "bool",     "unsupported"};
  return names[static_cast<int>(dtype)];
}

constexpr int64_t size_of(DType dtype) {
  constexpr int64_t sizes[] = {4, 8, 2, 2, 1, 1, 4, 8, 1, 0};
  return sizes[static_cast<int>(dtype)];
}

/// A set of element types as bits: dtype_set(DType::f32, DType::bf16).
template <class... Types>
constexpr uint32_t dtype_set(Types... types) {
  return ((1u << static_cast<int>(types)) | ...);
}

}  // namespace lynx
