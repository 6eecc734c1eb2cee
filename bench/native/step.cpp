// Counts the instructions of a call with the processor's trap flag: after each instruction it raises SIGTRAP, and the
// handler counts. Any instruction set works, AVX-512 and AMX too, which callgrind does not know; it takes about 10 us an
// instruction on a virtual machine, so calls must be small.
//
// Only what lies in this program's own text is counted: memcpy and memset of the C library choose their code by
// processor, and a `rep` prefix traps on each round.
#include <signal.h>
#include <ucontext.h>
#include <x86intrin.h>

#include "counted.h"

extern "C" const char __executable_start, etext;  // the linker's: where the program's text begins and ends
extern "C" int64_t trapped_instructions();        // tests/amx_trap.cpp

namespace lynx::bench {
namespace {

constexpr unsigned long long kTrapFlag = 0x100;
volatile int64_t steps = 0;

void on_step(int, siginfo_t*, void* context) {
  const auto next = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  const bool ours =
      next >= reinterpret_cast<uintptr_t>(&__executable_start) && next < reinterpret_cast<uintptr_t>(&etext);
  if (ours) steps = steps + 1;
}

}  // namespace

int64_t stepped(const Call& call) {
  struct sigaction action{}, previous{};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGTRAP, &action, &previous);
  const int64_t trapped = trapped_instructions();
  steps = 0;
  __writeeflags(__readeflags() | kTrapFlag);
  lynx_counted_call(call);
  __writeeflags(__readeflags() & ~kTrapFlag);
  sigaction(SIGTRAP, &previous, nullptr);
  // An emulated AMX instruction is stepped over without a trap of its own.
  return steps + trapped_instructions() - trapped;
}

}  // namespace lynx::bench
