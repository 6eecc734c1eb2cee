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
volatile int64_t steps = 0, tiles = 0;

/// VEX.0F38 with an opcode that only AMX has: configure, zero and release; load and store; multiply.
bool is_tile_instruction(const uint8_t* code) {
  constexpr int kThreeBytes = 0xc4, k0f38 = 2;
  if (code[0] != kThreeBytes || (code[1] & 0x1f) != k0f38) return false;
  return code[3] == 0x49 || code[3] == 0x4b || code[3] == 0x5c || code[3] == 0x5e;
}

void on_step(int, siginfo_t*, void* context) {
  const auto next = static_cast<uintptr_t>(static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP]);
  const auto begin = reinterpret_cast<uintptr_t>(&__executable_start), end = reinterpret_cast<uintptr_t>(&etext);
  if (next < begin || next >= end) return;
  steps = steps + 1;
  if (is_tile_instruction(reinterpret_cast<const uint8_t*>(next))) tiles = tiles + 1;
}

}  // namespace

Steps stepped(const Call& call) {
  struct sigaction action{}, previous{};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGTRAP, &action, &previous);
  const int64_t before = trapped_instructions();
  steps = tiles = 0;
  __writeeflags(__readeflags() | kTrapFlag);
  lynx_counted_call(call);
  __writeeflags(__readeflags() & ~kTrapFlag);
  sigaction(SIGTRAP, &previous, nullptr);
  // An emulated instruction ends in a signal of its own, without a trap: on_step has seen the first of a row as what
  // comes next, and none of those that follow it.
  const int64_t emulated = trapped_instructions() - before;
  return emulated > 0 ? Steps{steps + emulated, emulated} : Steps{steps, tiles};
}

}  // namespace lynx::bench
