#include "workspace.h"

#include <atomic>
#include <cstring>
#include <new>

namespace lynx {
namespace {

constexpr int64_t kKept = int64_t{32} << 20;
std::atomic<bool> poisoned{false};

std::byte* allocate(int64_t bytes) {
  return static_cast<std::byte*>(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{kAlignment}));
}
void deallocate(std::byte* data) { ::operator delete(data, std::align_val_t{kAlignment}); }

struct Kept {
  std::byte* data = nullptr;
  int64_t size = 0;
  bool in_use = false;
  ~Kept() { deallocate(data); }
};
thread_local Kept kept;

}  // namespace

Workspace::Workspace(int64_t bytes) : own_(bytes > kKept || kept.in_use) {
  if (own_) {
    data_ = allocate(bytes);
  } else {
    if (bytes > kept.size) {
      deallocate(kept.data);
      kept.data = nullptr;
      kept.size = 0;
      kept.data = allocate(bytes);
      kept.size = bytes;
    }
    kept.in_use = true;
    data_ = kept.data;
  }
  if (poisoned.load(std::memory_order_relaxed) && bytes > 0) std::memset(data_, 0xff, static_cast<std::size_t>(bytes));
}

Workspace::~Workspace() {
  if (own_) {
    deallocate(data_);
  } else {
    kept.in_use = false;
  }
}

void poison_workspaces(bool on) { poisoned.store(on); }

}  // namespace lynx
