// Scratch memory for one kernel call. Kernels never allocate: the binding takes a workspace of the size that the op
// computes from its shapes and hands the kernel the pointer.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lynx {

constexpr int64_t kAlignment = 64;

/// Bytes for `count` elements, rounded up so that the next array starts at a cache line.
__attribute__((always_inline)) constexpr int64_t aligned_bytes(int64_t count, int64_t element_size) {
  return (count * element_size + kAlignment - 1) / kAlignment * kAlignment;
}

/// Memory aligned to 64 bytes, uninitialised. Up to 32 MiB is kept per thread for its next call.
class Workspace {
 public:
  explicit Workspace(int64_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_;
  bool own_;
};

/// Tests: fill every workspace with 0xff bytes (NaN in every float type) before a kernel sees it.
void poison_workspaces(bool on);

/// Cuts a workspace into arrays: Arena arena(p.workspace); auto* h = arena.take<float>(T * R). Counted from address 0, it
/// measures instead: the address of what would come next is the size of all before.
class Arena {
 public:
  __attribute__((always_inline)) explicit Arena(std::byte* start) : next_(reinterpret_cast<uintptr_t>(start)) {}
  template <class T>
  __attribute__((always_inline)) T* take(int64_t count) {
    T* array = reinterpret_cast<T*>(next_);
    next_ += static_cast<uintptr_t>(aligned_bytes(count, sizeof(T)));
    return array;
  }

 private:
  uintptr_t next_;
};

}  // namespace lynx
