// Runs AMX machine code on a processor that has none: such an instruction raises SIGILL, and the handler decodes it,
// computes it by csrc/cpu/tile_emulated.h and steps over it. So tests/test_amx_code.py can hold the very code that the
// compiler made for AMX against the emulated build.
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstring>

#include "cpu/tile.h"

using namespace lynx::LYNX_ISA;

namespace {

struct sigaction previous;
std::atomic<int64_t> trapped{0};

enum Prefix { kNone = 0, kF3 = 2, kF2 = 3 };

/// One instruction of the AMX family: VEX.128.pp.0F38.W0 opcode modrm [sib] [displacement].
struct Instruction {
  int prefix, opcode, mod, reg, rm, vvvv;
  uint64_t address;  // of the memory operand
  int64_t stride;    // index << scale: the distance of rows
  uint64_t next;
};

class Decoder {
 public:
  Decoder(const greg_t* registers)
      : registers_(registers), code_(reinterpret_cast<const uint8_t*>(registers[REG_RIP])) {}

  bool decode(Instruction& out) {
    constexpr int kThreeBytes = 0xc4, k0f38 = 2;
    const uint8_t* p = code_;
    if (p[0] != kThreeBytes || (p[1] & 0x1f) != k0f38 || (p[2] & 0x84) != 0) return false;  // W0, 128 bits
    x_ = !(p[1] & 0x40);
    b_ = !(p[1] & 0x20);
    out.vvvv = ~p[2] >> 3 & 0xf;
    out.prefix = p[2] & 3;
    out.opcode = p[3];
    out.mod = p[4] >> 6;
    out.reg = p[4] >> 3 & 7;
    out.rm = p[4] & 7;
    next_ = p + 5;
    if (out.mod != 3) decode_memory(out);
    out.next = reinterpret_cast<uint64_t>(next_);
    return true;
  }

 private:
  uint64_t value(int number) const {
    constexpr int kOrder[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                              REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(registers_[kOrder[number]]);
  }

  int64_t displacement(int bytes) {
    int64_t result = static_cast<int8_t>(*next_);
    if (bytes == 4) {
      int32_t wide;
      std::memcpy(&wide, next_, sizeof wide);
      result = wide;
    }
    next_ += bytes;
    return result;
  }

  void decode_memory(Instruction& out) {
    int base = out.rm;
    out.stride = 0;
    if (out.rm == 4) {
      const int sib = *next_++;
      const int index = (sib >> 3 & 7) | x_ << 3;
      out.stride = index == 4 ? 0 : static_cast<int64_t>(value(index)) << (sib >> 6);
      base = sib & 7;
    }
    const bool no_base = out.mod == 0 && base == 5;
    const int64_t offset = no_base || out.mod == 2 ? displacement(4) : out.mod == 1 ? displacement(1) : 0;
    const uint64_t from = !no_base ? value(base | b_ << 3) : out.rm == 4 ? 0 : reinterpret_cast<uint64_t>(next_);
    out.address = from + static_cast<uint64_t>(offset);
  }

  const greg_t* registers_;
  const uint8_t *code_, *next_ = nullptr;
  int x_ = 0, b_ = 0;
};

/// False if it is none of the instructions that tile_hardware.h uses.
bool execute(const Instruction& i) {
  void* memory = reinterpret_cast<void*>(i.address);
  if (i.opcode == 0x49 && i.prefix == kNone && i.mod == 3) {
    tile_release();
  } else if (i.opcode == 0x49 && i.prefix == kNone) {
    TileConfig config;
    std::memcpy(&config, memory, sizeof config);
    tile_config(config);
  } else if (i.opcode == 0x49 && i.prefix == kF2) {
    fault_unless(is_configured(i.reg));
    clear(i.reg);
  } else if (i.opcode == 0x4b && i.prefix == kF2) {
    load_rows(i.reg, memory, i.stride);
  } else if (i.opcode == 0x4b && i.prefix == kF3) {
    store_rows(i.reg, memory, i.stride);
  } else if (i.opcode == 0x5c && i.prefix == kF3) {
    dp_bf16_flushed(i.reg, i.rm, i.vvvv);
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  Instruction instruction{};
  if (Decoder(registers).decode(instruction) && execute(instruction)) {
    registers[REG_RIP] = static_cast<greg_t>(instruction.next);
    trapped.fetch_add(1, std::memory_order_relaxed);
  } else {
    sigaction(SIGILL, &previous, nullptr);  // the instruction runs again and meets its real fate
  }
}

}  // namespace

extern "C" void install() {
  struct sigaction action{};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGILL, &action, &previous);
}
extern "C" void uninstall() { sigaction(SIGILL, &previous, nullptr); }
extern "C" int64_t trapped_instructions() { return trapped.load(); }
