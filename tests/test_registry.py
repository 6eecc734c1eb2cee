"""The registry: order, reasons, what the environment may ask for, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from lynx_engine import get_num_threads, native, ops, registry, set_num_threads
from lynx_engine.env import settings
from lynx_engine.errors import LynxError
from lynx_engine.registry import Backend, Op

Setter = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setter]:
    """environment(LYNX_X="value") sets variables and has everything decided anew."""

    def change(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        registry.refresh()

    for name in ("LYNX_BACKEND", "LYNX_CPU_ISA", "LYNX_NUM_THREADS", "LYNX_EMULATE_AMX"):
        monkeypatch.delenv(name, raising=False)
    registry.refresh()
    yield change
    monkeypatch.undo()
    registry.refresh()


@pytest.fixture
def doubling(environment: Setter, monkeypatch: pytest.MonkeyPatch) -> Op:
    """An op with three backends: one that no machine can run, one for small numbers, and the reference."""
    absent = Backend("absent", lambda x: ("absent", 0), machine_refusals=lambda: ("this machine has no abacus",))
    small = Backend("small", lambda x: ("small", x + x), call_refusals=lambda x: () if x < 10 else (f"{x} is large",))
    reference = Backend("reference", lambda x: ("reference", 2 * x))

    class Doubling(Op):
        backends = (absent, small, reference)  # type: ignore[assignment]

    monkeypatch.setattr(registry, "_OPS", dict(registry._OPS))
    return Doubling("doubling", reference=reference.run, native=lambda k, x: k(x), refusals=lambda d, x: ())


def adapter_arguments(dtype: torch.dtype = torch.float32) -> tuple[object, ...]:
    generator = torch.Generator().manual_seed(0)
    (suite,) = (s for s in ops.suites() if s.op == "adapter_mlp")
    return (*suite.cases[0].make(generator, dtype).values(), 1e-5)


def test_auto_takes_the_first_that_can(doubling: Op) -> None:
    assert doubling("auto", 4) == ("small", 8)
    assert doubling("auto", 40) == ("reference", 80)


def test_environment_names_count_where_an_op_has_them(doubling: Op, environment: Setter) -> None:
    """Names that other ops have are passed over; a name that no op has is a mistake."""
    environment(LYNX_BACKEND="cpu_avx2,reference")
    assert doubling("auto", 4) == ("reference", 8)
    environment(LYNX_BACKEND="cpu_avx3,reference")
    with pytest.raises(LynxError, match="unknown backend 'cpu_avx3'"):
        doubling("auto", 4)


def test_a_named_backend_runs_or_raises_with_every_reason(doubling: Op) -> None:
    assert doubling("reference", 4) == ("reference", 8)
    with pytest.raises(LynxError, match=r"^doubling: small: 40 is large$"):
        doubling("small", 40)
    with pytest.raises(LynxError, match=r"^doubling: absent: this machine has no abacus$"):
        doubling("absent", 4)
    with pytest.raises(LynxError, match=r"^doubling: unknown backend 'fast'; backends here: auto, absent, small, ref"):
        doubling("fast", 4)


def test_why_gives_a_verdict_on_every_backend(doubling: Op) -> None:
    assert doubling.why(40).splitlines() == [
        "doubling",
        "  absent          refused: this machine has no abacus",
        "  small           refused: 40 is large",
        "  reference       chosen",
    ]
    assert doubling.why(4, backend="small").splitlines()[2:] == [
        "  small           chosen",
        "  reference       refused: not asked for",
    ]
    assert doubling.why(4).splitlines()[2:] == ["  small           chosen", "  reference       able"]


def test_environment_orders_backends(doubling: Op, environment: Setter) -> None:
    environment(LYNX_BACKEND="reference")
    assert doubling("auto", 4) == ("reference", 8)
    assert doubling("small", 4) == ("small", 8)
    environment(LYNX_BACKEND="small, reference")
    assert doubling("auto", 4) == ("small", 8)
    assert doubling("auto", 40) == ("reference", 80)


def test_environment_backend_that_cannot_run_raises(doubling: Op, environment: Setter) -> None:
    environment(LYNX_BACKEND="absent,small")
    with pytest.raises(LynxError, match=r"^doubling: absent: this machine has no abacus \| small: 40 is large$"):
        doubling("auto", 40)
    environment(LYNX_BACKEND="quick")
    with pytest.raises(LynxError, match="unknown backend 'quick'"):
        doubling("auto", 4)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LYNX_CPU_ISA", "sse2", "LYNX_CPU_ISA must be one of avx2, avx512, avx512_bf16, amx, got 'sse2'"),
        ("LYNX_NUM_THREADS", "0", "LYNX_NUM_THREADS must be a whole number of at least 1, got '0'"),
        ("LYNX_NUM_THREADS", "two", "LYNX_NUM_THREADS must be a whole number of at least 1, got 'two'"),
        ("LYNX_EMULATE_AMX", "yes", "LYNX_EMULATE_AMX must be one of 0, 1, got 'yes'"),
    ],
)
def test_bad_environment_is_an_error_that_names_it(
    environment: Setter, variable: str, value: str, message: str
) -> None:
    environment(**{variable: value})
    with pytest.raises(LynxError, match=f"^{message}$"):
        settings()


@pytest.mark.skipif(native.module() is None, reason="lynx_engine._C is not built")
class TestCompiled:
    """What the compiled module adds."""

    def test_isa_ceiling(self, environment: Setter) -> None:
        environment(LYNX_CPU_ISA="avx2")
        assert native.isa_refusals("avx512") == ("LYNX_CPU_ISA=avx2 forbids avx512",)
        assert native.isa_refusals("avx512_bf16") == ("LYNX_CPU_ISA=avx2 forbids avx512_bf16",)
        op = registry.ops()["adapter_mlp"]
        arguments = adapter_arguments()
        if native.isa_refusals("avx2"):
            pytest.skip("no AVX2 here")
        assert op.choose("auto", *arguments).name == "cpu_avx2"
        with pytest.raises(LynxError, match="^adapter_mlp: cpu_avx512: LYNX_CPU_ISA=avx2 forbids avx512$"):
            op.choose("cpu_avx512", *arguments)

    def test_refusals_name_dtype_and_device(self, environment: Setter) -> None:
        environment(LYNX_EMULATE_AMX="1")
        op = registry.ops()["adapter_mlp"]
        x, *rest = adapter_arguments()
        assert isinstance(x, torch.Tensor)
        if not native.isa_refusals("amx"):
            with pytest.raises(LynxError, match=r"^adapter_mlp: cpu_amx: needs bfloat16 throughout \(got float32\)$"):
                op.choose("cpu_amx", x, *rest)
        if not native.isa_refusals("avx2"):
            wanted = r"needs bfloat16 or float32 throughout \(got float32, float64\); needs .* CPU memory \(got meta\)"
            with pytest.raises(LynxError, match=f"^adapter_mlp: cpu_avx2: {wanted}$"):
                op.choose("cpu_avx2", x.double().to("meta"), *rest)

    def test_preferred_instruction_sets_come_first(self) -> None:
        names = [backend.name for backend in registry.ops()["adapter_mlp"].backends]
        assert names == ["cpu_amx", "cpu_avx512_bf16", "cpu_avx512", "cpu_avx2", "reference"]

    def test_number_of_threads(self, environment: Setter) -> None:
        before = get_num_threads()
        try:
            set_num_threads(3)
            assert (get_num_threads(), torch.get_num_threads()) == (3, 3)
            environment(LYNX_NUM_THREADS="2")
            assert get_num_threads() == 2
        finally:
            set_num_threads(before)

    @pytest.mark.parametrize("n", [0, -1, 1.5, True, "2"])
    def test_bad_number_of_threads(self, n: object) -> None:
        with pytest.raises(LynxError, match="set_num_threads: wanted a whole number of at least 1, got"):
            set_num_threads(n)  # type: ignore[arg-type]
