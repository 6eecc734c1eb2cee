// The one thread pool of the CPU kernels.
#pragma once
#include <cstdint>

namespace lynx {

/// Threads that a parallel loop may use, the calling one included. Default: the processors this process may run on.
int num_threads();
/// n >= 1. Takes effect at the next parallel loop.
void set_num_threads(int n);

namespace detail {
using Task = void (*)(void* context, int64_t index, int worker);
void run_tasks(int64_t count, bool worth_waking, Task task, void* context);
}  // namespace detail

/// Runs body(index, worker) for every index in [0, count), worker in [0, num_threads()); returns when all are done.
/// Tasks go to whichever thread is free, so a result must not depend on `worker`, which only names a scratch buffer.
/// Runs in the caller alone when the work is not worth waking a thread (below about 5 us), and when there is one task,
/// one thread, or the pool is busy (a nested or concurrent loop).
///
/// Every lambda is a type of its own, so this template has one copy per use and no ISA's copy can replace another's.
template <class Body>
__attribute__((always_inline)) inline void parallel_for(int64_t count, const Body& body, bool worth_waking = true) {
  detail::run_tasks(
      count, worth_waking,
      [](void* context, int64_t index, int worker) { (*static_cast<const Body*>(context))(index, worker); },
      const_cast<Body*>(&body));
}

}  // namespace lynx
