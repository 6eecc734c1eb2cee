"""The AMX tiles: their emulation against a twin written from Intel's manual, and what the hardware build emits."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from cpu_vocabulary import ROOT, compile_for, library_path, pointer, size, vocabulary
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Halves = NDArray[np.uint16]

SMALLEST_NORMAL = np.float32(2.0**-126)


def config(rows_c: int, columns: int, pairs: int) -> NDArray[np.uint8]:
    """The 64 bytes for C [rows_c, columns] = tile 0, A [rows_c, 2 * pairs] = tile 1, B = tile 2."""
    table = np.zeros(64, np.uint8)
    table[0] = 1
    table[16:22].view(np.uint16)[:] = (4 * columns, 4 * pairs, 4 * columns)
    table[48:51] = (rows_c, rows_c, pairs)
    return table


def flushed(x: np.float32) -> np.float32:
    return x if not abs(x) < SMALLEST_NORMAL else np.float32(np.copysign(0.0, x))


def nearest_even(exact: Fraction) -> np.float32:
    """An exact number rounded once to float32, flushed to zero if the rounded result is denormal."""
    exponent = max(exact.numerator.bit_length() - exact.denominator.bit_length() - 24, -1000)
    while abs(exact) >= Fraction(2) ** (exponent + 24):
        exponent += 1
    rounded = round(exact / Fraction(2) ** exponent) * Fraction(2) ** exponent
    if abs(rounded) >= Fraction(2) ** 128:
        return np.float32(np.inf) if rounded > 0 else np.float32(-np.inf)
    return flushed(np.float32(float(rounded)))


def fused_multiply_add(a: np.float32, b: np.float32, c: np.float32) -> np.float32:
    """a * b + c rounded once, with denormal inputs and outputs as zeros."""
    a, b, c = flushed(a), flushed(b), flushed(c)
    if not (np.isfinite(a) and np.isfinite(b) and np.isfinite(c)):
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
    if exact == 0:  # the sign of an exact zero is IEEE's business
        return np.float32(np.float64(a) * np.float64(b) + np.float64(c))
    return nearest_even(exact)


def to_floats(bits: Halves) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_halves(x: Floats) -> Halves:
    """Round to nearest even by torch's rule, for finite numbers."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def manual_dot_product(c: Floats, a: Halves, b: Halves) -> Floats:
    """TDPBF16PS as in the Intel SDM, volume 2. c [M, N], a [M, 2 K], b [K, 2 N]."""
    result = c.copy()
    a_floats, b_floats, one = to_floats(a), to_floats(b), np.float32(1)
    for m, n in np.ndindex(*c.shape):
        even = odd = np.float32(0)
        for k in range(b.shape[0]):
            even = fused_multiply_add(a_floats[m, 2 * k], b_floats[k, 2 * n], even)
            odd = fused_multiply_add(a_floats[m, 2 * k + 1], b_floats[k, 2 * n + 1], odd)
        result[m, n] = fused_multiply_add(one, c[m, n], fused_multiply_add(one, even, odd))
    return result


def emulated_dot_product(c: Floats, a: Halves, b: Halves) -> tuple[Floats, Floats]:
    """(C after the instruction, the untouched rest of its 16 x 16 memory)."""
    (rows, columns), pairs = c.shape, b.shape[0]
    c_memory = np.full((16, 16), np.nan, np.float32)
    a_memory = np.full((16, 32), 0x7FC0, np.uint16)
    b_memory = np.full((16, 32), 0x7FC0, np.uint16)
    c_memory[:rows, :columns], a_memory[:rows, : 2 * pairs], b_memory[:pairs, : 2 * columns] = c, a, b
    table = config(rows, columns, pairs)
    vocabulary("amx_emulated").dot_product(*map(pointer, (table, a_memory, b_memory, c_memory)))
    outside = np.ones((16, 16), bool)
    outside[:rows, :columns] = False
    return c_memory[:rows, :columns].copy(), c_memory[outside]


def random_halves(rng: np.random.Generator, shape: tuple[int, int], spread: float) -> Halves:
    magnitudes = np.exp2(rng.uniform(-spread, spread, shape))
    return to_halves((rng.standard_normal(shape) * magnitudes).astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "columns", "pairs", "spread"), [(16, 16, 16, 1.0), (5, 16, 16, 12.0), (16, 3, 7, 60.0), (1, 1, 1, 62.0)]
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_emulated_dot_product_is_the_manuals(rows: int, columns: int, pairs: int, spread: float) -> None:
    """Bit for bit, with magnitudes from well-behaved to overflow and underflow, at full and at partial shapes."""
    rng = np.random.default_rng(rows * columns + pairs)
    a = random_halves(rng, (rows, 2 * pairs), spread)
    b = random_halves(rng, (pairs, 2 * columns), spread)
    c = (rng.standard_normal((rows, columns)) * 2.0**-4).astype(np.float32)
    got, outside = emulated_dot_product(c, a, b)
    np.testing.assert_array_equal(got.view(np.uint32), manual_dot_product(c, a, b).view(np.uint32))
    assert np.isnan(outside).all()


def test_denormals_are_zeros_on_both_sides() -> None:
    tiny, half = np.uint16(0x0001), to_halves(np.float32([0.5]))[0]
    a = np.array([[tiny, half, 0x0080, half], [half, tiny, 0x8080, half]], np.uint16)
    b = np.array([[0x7F00, 0x0080], [half, half]], np.uint16)
    c = np.array([[1e-40], [-1e-40]], np.float32)
    got, _ = emulated_dot_product(c, a, b)
    np.testing.assert_array_equal(got.view(np.uint32), manual_dot_product(c, a, b).view(np.uint32))
    assert got[0, 0] == 0.25 and got[1, 0] == np.float32(0.5) * np.float32(2.0**127) + np.float32(0.25)


def test_nan_and_infinity_spread_as_in_arithmetic() -> None:
    infinity, nan, one = np.uint16(0x7F80), np.uint16(0x7FC0), np.uint16(0x3F80)
    a = np.array([[infinity, one], [nan, one], [infinity, 0xFF80], [0x0000, one]], np.uint16)
    b = np.array([[one, one, 0x0000, one, infinity, one]], np.uint16)
    got, _ = emulated_dot_product(np.zeros((4, 3), np.float32), a, b)
    wanted = [[np.inf, np.nan, np.inf], [np.nan] * 3, [np.nan] * 3, [1.0, 1.0, np.nan]]
    np.testing.assert_array_equal(got, np.float32(wanted))


def test_the_callers_rounding_state_is_restored() -> None:
    """A denormal made after the instruction is kept: the flush mode lasts for the instruction only."""
    c = np.ones((1, 1), np.float32)
    emulated_dot_product(c, np.zeros((1, 2), np.uint16), np.zeros((1, 2), np.uint16))
    x, y = np.float32([-100.0]), np.empty(1, np.float32)
    vocabulary("amx_emulated").exp_of(pointer(x), pointer(y), size(1))
    assert y[0] == np.float32(np.exp(np.float64(-100.0))) and 0 < y[0] < SMALLEST_NORMAL


@pytest.mark.parametrize(
    "call",
    [
        "library.load_unconfigured(pointer(memory))",
        "library.dot_product(pointer(config(16, 16, 17)), *[pointer(memory)] * 3)",
        "library.dot_product(pointer(config(17, 16, 16)), *[pointer(memory)] * 3)",
        "table = config(16, 16, 16); table[50] = 8; library.dot_product(pointer(table), *[pointer(memory)] * 3)",
        "table = config(16, 16, 16); table[0] = 2; library.dot_product(pointer(table), *[pointer(memory)] * 3)",
    ],
    ids=["unconfigured", "row too long", "too many rows", "depths differ", "unknown palette"],
)
def test_what_faults_on_hardware_faults_here(call: str) -> None:
    vocabulary("amx_emulated")
    program = (
        "import ctypes, numpy as np; from cpu_vocabulary import pointer; from test_tiles import config; "
        f"library = ctypes.CDLL({str(library_path('amx_emulated'))!r}); memory = np.zeros(4096, np.uint8); {call}"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "tests", capture_output=True, check=False)
    assert process.returncode == -signal.SIGILL, process.stderr.decode()


def disassembly(function: str) -> list[str]:
    """Instructions of one function of the hardware build, which needs no AMX to be compiled."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("objdump (binutils) is not on this machine")
    path = compile_for("amx", ROOT / "tests" / "cpu_vocabulary.cpp", "amx.o", "-O2", "-c")
    command = [objdump, "--no-show-raw-insn", f"--disassemble={function}", str(path)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"^ +[0-9a-f]+:\t(.*\S)", text, re.MULTILINE)


def test_hardware_build_emits_the_tile_instructions_in_order() -> None:
    tiles = [i for i in disassembly("dot_product") if i.startswith(("tile", "tdp", "ldtile"))]
    names = [instruction.split()[0] for instruction in tiles]
    assert names == ["ldtilecfg", "tileloadd", "tileloadd", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"]
    operands = [instruction.split()[-1] for instruction in tiles[1:6]]
    assert [operand.split(",")[-1] for operand in operands[:3]] == ["%tmm0", "%tmm1", "%tmm2"]
    assert operands[3] == "%tmm2,%tmm1,%tmm0" and operands[4].startswith("%tmm0,(")


def test_hardware_build_fills_the_configuration_before_it_is_loaded() -> None:
    """The compiler must not drop the stores of widths and rows, bytes 16 to 63 of what ldtilecfg reads."""
    code = disassembly("configure")
    load = next(i for i, instruction in enumerate(code) if instruction.startswith("ldtilecfg"))
    stores = [memory_operand(instruction) for instruction in code[:load] if "mov" in instruction.split()[0]]
    first, register = memory_operand(code[load])
    written = {offset - first for offset, base in stores if base == register and 0 <= offset - first < 64}
    assert max(written, default=0) >= 16, code[:load]


def memory_operand(instruction: str) -> tuple[int, str]:
    """(displacement, base register) of the last operand if it is memory: where a store goes."""
    match = re.search(r"(-?0x[0-9a-f]+)?\((%r[sb]p)\)$", instruction)
    return (int(match[1] or "0", 16), match[2]) if match else (0, "")
