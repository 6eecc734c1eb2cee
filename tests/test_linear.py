"""linear: what test_ops.py cannot say by cases alone: the packing, row independence, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from lynx_engine import native, ops, registry
from lynx_engine.errors import LynxError

BACKENDS = [("cpu_avx2", torch.float32), ("cpu_avx512", torch.float32), ("cpu_avx512", torch.bfloat16)]
BACKENDS += [("cpu_avx2", torch.bfloat16), ("cpu_avx512_bf16", torch.bfloat16), ("cpu_amx", torch.bfloat16)]
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@pytest.fixture(params=BACKENDS, ids=lambda p: f"{p[0]}-{str(p[1])[6:]}")
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, torch.dtype]]:
    """A backend that this machine runs and a dtype that it takes."""
    backend, dtype = request.param
    monkeypatch.setenv("LYNX_EMULATE_AMX", "1")
    registry.refresh()
    if refused := native.isa_refusals(backend.removeprefix("cpu_")):
        pytest.skip("; ".join(refused))
    yield backend, dtype
    monkeypatch.undo()
    registry.refresh()


def normal(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@both
@pytest.mark.parametrize(("N", "K"), [(1, 1), (16, 32), (17, 33), (40, 64), (0, 5), (5, 0)])
def test_unpacking_gives_back_what_was_packed(N: int, K: int, dtype: torch.dtype) -> None:
    gate, up = normal(N, K, dtype=dtype), normal(N, K, dtype=dtype, seed=1)
    assert torch.equal(ops.unpack_linear(ops.pack_linear(gate), N, K), gate)
    if N and K:
        assert torch.equal(ops.unpack_linear(ops.pack_linear(gate, up), N, K), torch.stack((gate, up)))


@both
def test_layout_of_a_packed_weight(dtype: torch.dtype) -> None:
    """The layout is a file format: element by element, and zeros beyond the matrix."""
    N, K = 18, 5
    weight = normal(N, K, dtype=dtype)
    packed = ops.pack_linear(weight)
    assert packed.shape == ((2, 16, 16, 2) if dtype == torch.bfloat16 else (2, K, 16))
    for n in range(32):
        for k in range(32 if dtype == torch.bfloat16 else K):
            element = packed[n // 16, k // 2, n % 16, k % 2] if packed.dim() == 4 else packed[n // 16, k, n % 16]
            assert element == (weight[n, k] if n < N and k < K else 0)


def test_a_row_depends_on_itself_alone(kernel: tuple[str, torch.dtype]) -> None:
    """Bitwise: alone or among others, first or last, beside NaN, and with the weight packed or not."""
    backend, dtype = kernel
    K, N = 1100, 70
    x, weight = normal(530, K, dtype=dtype), normal(N, K, dtype=dtype, seed=1)
    packed = ops.pack_linear(weight)
    rows = 530 if backend != "cpu_amx" else 70  # emulated tiles are slow
    x = x[:rows]
    whole = ops.linear(x, packed, out_features=N, activation="gelu", backend=backend)
    assert torch.equal(ops.linear(x, weight, activation="gelu", backend=backend), whole)
    for part in (slice(0, 1), slice(rows - 1, rows), slice(3, 18), slice(7, 64)):
        alone = ops.linear(x[part], packed, out_features=N, activation="gelu", backend=backend)
        assert torch.equal(alone, whole[part])
    x[5] = torch.nan
    beside = ops.linear(x, packed, out_features=N, activation="gelu", backend=backend)
    assert beside[5].isnan().all()
    kept = torch.arange(rows) != 5
    assert torch.equal(beside[kept], whole[kept])


def test_input_gradient_is_the_same_from_packed_strips(kernel: tuple[str, torch.dtype]) -> None:
    backend, dtype = kernel
    weight, dy = normal(70, 90, dtype=dtype), normal(33, 70, dtype=dtype, seed=1)
    gradient = torch.ops.lynx.linear_backward_input
    assert torch.equal(gradient(dy, ops.pack_linear(weight), 90, backend), gradient(dy, weight, 90, backend))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "linear: activation must be None, silu, gelu, gated_silu, got 'relu'"),
        ({"activation": "gated_silu"}, r"linear: gated_silu needs a weight of pack_linear\(gate, up\), got \[N, K\]"),
        ({"out_features": 9}, "linear: out_features must be 8 to 8 with this weight, got 9"),
        ({"bias": torch.zeros(7)}, r"linear: bias must be \[N=8\], got \[7\]"),
        ({"residual": torch.zeros(2, 8)}, r"linear: residual must be \[3, 8\], got \[2, 8\]"),
        ({"norm_bias": torch.zeros(4)}, "linear: norm_bias needs norm_weight"),
        ({"x": torch.zeros(3, 5)}, r"linear: weight must be \[N=8, K=5\], got \[8, 4\]"),
    ],
)
def test_what_is_refused(change: dict[str, object], message: str) -> None:
    arguments = {"x": torch.zeros(3, 4), "weight": torch.zeros(8, 4)} | change
    with pytest.raises(LynxError, match=f"^{message}"):
        ops.linear(**arguments)  # type: ignore[arg-type]


def test_a_packed_weight_has_no_gradient() -> None:
    packed = ops.pack_linear(torch.zeros(8, 4)).requires_grad_()
    with pytest.raises(LynxError, match="a packed weight has no gradient"):
        ops.linear(torch.zeros(3, 4), packed)
    with pytest.raises(LynxError, match="out_features must be 1 to 16 with this weight, got 17"):
        ops.linear(torch.zeros(3, 4), packed.detach(), out_features=17)
