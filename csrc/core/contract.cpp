#include "contract.h"

#include <sstream>

namespace lynx {
namespace {

template <class Dims, class Text>
std::string join(const Dims& dims, Text text) {
  std::ostringstream joined;
  joined << '[';
  const char* separator = "";
  for (const auto* dim : dims) {
    joined << separator << text(*dim);
    separator = ", ";
  }
  joined << ']';
  return joined.str();
}

}  // namespace

void Contract::expect_rows(const char* argument, const Tensor& tensor, Dim& T, Dim& D) const {
  if (tensor.ndim() == 2 || tensor.ndim() == 0 || !tensor.is_contiguous()) {
    return expect(argument, tensor, {&T, &D}, Layout::rows);
  }
  int64_t sizes[] = {1, tensor.size(-1)};
  for (int axis = 0; axis + 1 < tensor.ndim(); ++axis) sizes[0] *= tensor.size(axis);
  expect_sizes(argument, tensor, 2, sizes, {&T, &D});
  expect_memory(argument, tensor, dtype_);
}

void Contract::expect_sizes(const char* argument, const Tensor& tensor, int ndim, const int64_t* sizes,
                            std::initializer_list<Dim*> dims) const {
  const auto wanted = [&] {
    return join(dims, [](const Dim& dim) {
      const bool is_number = dim.name_[0] >= '0' && dim.name_[0] <= '9';
      return dim.size_ < 0 || is_number ? std::string(dim.name_)
                                        : std::string(dim.name_) + "=" + std::to_string(dim.size_);
    });
  };
  if (ndim != static_cast<int>(dims.size())) {
    fail(op_, ": ", argument, " must be ", wanted(), ", got ", tensor.shape_text());
  }
  int axis = 0;
  for (Dim* dim : dims) {
    const int64_t size = sizes[axis++];
    if (dim->size_ < 0) {
      dim->size_ = size;
      dim->set_by_ = argument;
    } else if (dim->size_ != size) {
      fail(op_, ": ", argument, " must be ", wanted(), ", got ", tensor.shape_text(), " (", dim->name_, " was set by ",
           dim->set_by_, ")");
    }
  }
}

void Contract::expect_layout(const char* argument, const Tensor& tensor, Layout layout) const {
  if (layout == Layout::strided) return;
  const int last = tensor.ndim() - 1;
  if (tensor.numel() == 0) return;
  const bool fits = layout == Layout::contiguous ? tensor.is_contiguous()
                                                 : last < 0 || tensor.size(last) <= 1 || tensor.stride(last) == 1;
  if (fits) return;
  fail(op_, ": ", argument,
       layout == Layout::contiguous ? " must be contiguous" : " must be contiguous in its last axis", ", got shape ",
       tensor.shape_text(), " with last stride ", tensor.stride(last));
}

}  // namespace lynx
