// Shape contract with named dimensions: the first tensor that has a dimension fixes it, every later one must agree, and
// the error message writes itself.
#pragma once
#include <initializer_list>
#include <string>

#include "error.h"
#include "tensor.h"

namespace lynx {

class Dim {
 public:
  explicit Dim(const char* name) : name_(name) {}
  Dim(const char* name, int64_t size) : name_(name), size_(size), set_by_("the call") {}
  operator int64_t() const { return size_; }

 private:
  friend class Contract;
  const char* name_;
  int64_t size_ = -1;
  const char* set_by_ = nullptr;
};

enum class Layout { contiguous, rows, strided };

/// Checks one call's arguments; every failure is a lynx::Error that starts with the op's name.
class Contract {
 public:
  Contract(const char* op, DType dtype) : op_(op), dtype_(dtype) {}

  /// Shape as named, the call's dtype, in CPU memory, contiguous (for `rows`: within the last axis; `strided`: anyhow).
  void expect(const char* argument, const Tensor& tensor, std::initializer_list<Dim*> dims,
              Layout layout = Layout::contiguous) const {
    expect_dtype(argument, tensor, dtype_, dims, layout);
  }
  void expect_dtype(const char* argument, const Tensor& tensor, DType dtype, std::initializer_list<Dim*> dims,
                    Layout layout = Layout::contiguous) const {
    expect_sizes(argument, tensor, tensor.ndim(), tensor.shape(), dims);
    expect_memory(argument, tensor, dtype);
    expect_layout(argument, tensor, layout);
  }
  /// [T, D] with contiguous rows, or a contiguous [..., D], whose leading axes are then T rows.
  void expect_rows(const char* argument, const Tensor& tensor, Dim& T, Dim& D) const;
  /// As expect_rows, dense, for memory that the kernel writes.
  void expect_output_rows(const char* argument, const Tensor& tensor, Dim& T, Dim& D) const {
    expect_rows(argument, tensor, T, D);
    expect_layout(argument, tensor, Layout::contiguous);
    expect_writable(argument, tensor);
  }
  /// As expect, for memory that the kernel writes.
  void expect_output(const char* argument, const Tensor& tensor, std::initializer_list<Dim*> dims,
                     Layout layout = Layout::contiguous) const {
    expect(argument, tensor, dims, layout);
    expect_writable(argument, tensor);
  }

 private:
  void expect_writable(const char* argument, const Tensor& tensor) const {
    if (tensor.read_only()) fail(op_, ": ", argument, " is read-only and must be writable");
  }
  void expect_memory(const char* argument, const Tensor& tensor, DType dtype) const {
    if (tensor.dtype() != dtype) {
      fail(op_, ": ", argument, " must be ", name(dtype), ", got ", name(tensor.dtype()));
    }
    if (!tensor.on_cpu()) fail(op_, ": ", argument, " must be in CPU memory");
  }
  void expect_sizes(const char* argument, const Tensor& tensor, int ndim, const int64_t* sizes,
                    std::initializer_list<Dim*> dims) const;
  void expect_layout(const char* argument, const Tensor& tensor, Layout layout) const;

  const char* op_;
  DType dtype_;
};

}  // namespace lynx
