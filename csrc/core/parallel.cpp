#include "parallel.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace lynx {
namespace {

// A worker spins about 30 us for the next loop of the same layer and then sleeps: a pure spin takes the core from a
// neighbour and loses more than it saves (7.1 -> 0.5 tokens/s measured on a shared machine).
constexpr int kSpins = 1000;

template <class Condition>
bool spin_until(Condition done) {
  for (int i = 0; i < kSpins; ++i) {
    if (done()) return true;
    __builtin_ia32_pause();
  }
  return false;
}

struct Loop {
  detail::Task task = nullptr;
  void* context = nullptr;
  int64_t count = 0;
};

class Pool {
 public:
  explicit Pool(int size) : size_(size) {
    for (int worker = 1; worker < size; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  }

  ~Pool() {
    stopping_.store(true);
    announce();
    for (auto& thread : threads_) thread.join();
  }

  int size() const { return size_; }

  void run(const Loop& loop) {
    loop_ = loop;
    next_.store(0, std::memory_order_relaxed);
    gate_.store(kOpen, std::memory_order_release);
    announce();
    drain(0);
    gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
    const auto empty = [this] { return gate_.load(std::memory_order_acquire) == 0; };
    if (spin_until(empty)) return;
    std::unique_lock lock(mutex_);
    finished_.wait(lock, empty);
  }

 private:
  // The gate: an open bit and the number of workers inside. A worker that wakes after the last task was taken finds the
  // gate shut and is not waited for.
  static constexpr uint32_t kOpen = uint32_t{1} << 31;

  bool enter() {
    uint32_t gate = gate_.load(std::memory_order_relaxed);
    do {
      if ((gate & kOpen) == 0) return false;
    } while (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel));
    return true;
  }

  void leave() {
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    std::lock_guard lock(mutex_);
    finished_.notify_one();
  }

  void announce() {
    {
      std::lock_guard lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
  }

  void drain(int worker) {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < loop_.count;) {
      loop_.task(loop_.context, i, worker);
    }
  }

  void serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
      const auto called = [&] { return generation_.load(std::memory_order_acquire) != seen; };
      if (!spin_until(called)) {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, called);
      }
      seen = generation_.load(std::memory_order_acquire);
      if (stopping_) return;
      if (!enter()) continue;
      drain(worker);
      leave();
    }
  }

  const int size_;
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  Loop loop_;
  std::atomic<int64_t> next_{0};
  std::atomic<uint32_t> gate_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> threads_;
};

int available_processors() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return std::max(1, CPU_COUNT(&allowed));
  return std::max(1u, std::thread::hardware_concurrency());
}

std::atomic<int> wanted_threads{0};
std::mutex* pool_mutex = new std::mutex;  // held while a loop runs; never freed: workers outlive static destructors
Pool* pool = nullptr;

// A forked child has the pool's memory but not its threads: it starts a new one.
void forget_pool_after_fork() {
  pool_mutex = new std::mutex;
  pool = nullptr;
}

/// The pool at the wanted size; call with pool_mutex held.
Pool& current_pool(int size) {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_pool_after_fork);
  (void)registered;
  if (pool == nullptr || pool->size() != size) {
    delete pool;
    pool = nullptr;
    pool = new Pool(size);
  }
  return *pool;
}

}  // namespace

int num_threads() {
  const int wanted = wanted_threads.load(std::memory_order_relaxed);
  if (wanted > 0) return wanted;
  static const int processors = available_processors();
  return processors;
}

void set_num_threads(int n) { wanted_threads.store(n, std::memory_order_relaxed); }

void detail::run_tasks(int64_t count, bool worth_waking, Task task, void* context) {
  const int threads = num_threads();
  if (worth_waking && count > 1 && threads > 1) {
    std::unique_lock lock(*pool_mutex, std::try_to_lock);
    if (lock.owns_lock()) return current_pool(threads).run({task, context, count});
  }
  for (int64_t i = 0; i < count; ++i) task(context, i, 0);
}

}  // namespace lynx
