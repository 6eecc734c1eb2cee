"""adapter_mlp beyond what every op must do: rows stand alone, degenerate sizes, its error messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lynx_engine import native, ops, registry
from lynx_engine.errors import LynxError

BACKENDS = [backend.name for backend in registry.ops()["adapter_mlp"].backends]


def arguments(leading: tuple[int, ...], D: int, R: int, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(D)
    shapes = {
        "x": (*leading, D),
        "norm_weight": (D,),
        "norm_bias": (D,),
        "down_weight": (R, D),
        "down_bias": (R,),
        "up_weight": (D, R),
        "up_bias": (D,),
        "scaling": (1,),
    }
    return {name: torch.randn(*shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.fixture(autouse=True, scope="module")
def emulated_amx() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LYNX_EMULATE_AMX", "1")
        registry.refresh()
        yield
    registry.refresh()


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != registry.REFERENCE])
def test_a_row_does_not_depend_on_the_others(backend: str) -> None:
    """Decoding one token gives the bits that prefilling it with others gave."""
    if native.isa_refusals(backend.removeprefix("cpu_")):
        pytest.skip(f"{backend} cannot run here")
    dtypes = native.kernels("adapter_mlp")[backend][1]
    for dtype in dtypes:
        tensors = arguments((300,), 90, 45, dtype)
        whole = ops.adapter_mlp(**tensors, backend=backend)
        for rows in (slice(0, 1), slice(299, 300), slice(17, 22), slice(100, 264)):
            part = ops.adapter_mlp(**{**tensors, "x": tensors["x"][rows]}, backend=backend)
            assert torch.equal(part, whole[rows]), f"{dtype} rows {rows}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_packed_weights_give_the_same_bits(backend: str) -> None:
    """At few rows, which plain weights meet without scratch, and at many; and no gradients."""
    takes = native.kernels("adapter_mlp").get(backend)
    if takes is not None and native.isa_refusals(backend.removeprefix("cpu_")):
        pytest.skip(f"{backend} cannot run here")
    for dtype in (torch.float32, torch.bfloat16) if takes is None else takes[1]:
        for rows in (1, 5, 40):
            tensors = arguments((rows,), 70, 37, dtype)
            packed = {name: ops.pack_linear(tensors[name]) for name in ("down_weight", "up_weight")}
            plain = ops.adapter_mlp(**tensors, backend=backend)
            assert torch.equal(ops.adapter_mlp(**{**tensors, **packed}, backend=backend), plain)
            tensors["x"].requires_grad_()
            with pytest.raises(LynxError, match="^adapter_mlp: packed weights have no gradient"):
                ops.adapter_mlp(**{**tensors, **packed}, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("leading", "D", "R"), [((3,), 1, 1), ((2,), 6, 0), ((2,), 0, 3), ((), 7, 3), ((2, 0, 3), 4, 2)]
)
def test_degenerate_sizes(backend: str, leading: tuple[int, ...], D: int, R: int) -> None:
    """One channel (its LayerNorm is the bias), no bottleneck (y = x + s b), no channels, a single vector, no rows."""
    if backend not in ("cpu_amx", registry.REFERENCE) and native.isa_refusals(backend.removeprefix("cpu_")):
        pytest.skip(f"{backend} cannot run here")
    takes = native.kernels("adapter_mlp").get(backend)
    dtype = torch.float32 if takes is None or torch.float32 in takes[1] else torch.bfloat16
    if backend == "cpu_amx" and native.isa_refusals("amx"):
        pytest.skip("no AMX and nothing to emulate it with")
    tensors = arguments(leading, D, R, dtype)
    y = ops.adapter_mlp(**tensors, backend=backend)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    torch.testing.assert_close(
        y.double(), ops.adapter_mlp(**wide), rtol=3e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2
    )


def test_only_wanted_gradients_come_back() -> None:
    tensors = arguments((5,), 12, 6)
    tensors["x"].requires_grad_()
    tensors["scaling"].requires_grad_()
    ops.adapter_mlp(**tensors).sum().backward()
    assert [name for name, tensor in tensors.items() if tensor.grad is not None] == ["x", "scaling"]


@pytest.mark.parametrize("backend", ["auto", registry.REFERENCE])
@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("down_weight", (4, 9), r"down_weight must be \[R=4, D=8\], got \[4, 9\] \(D was set by x\)"),
        ("up_weight", (8, 5), r"up_weight must be \[D=8, R=4\], got \[8, 5\] \(R was set by down_weight\)"),
        ("norm_bias", (1, 8), r"norm_bias must be \[D=8\], got \[1, 8\]"),
        ("scaling", (), r"scaling must be \[1\], got \[\]"),
        ("x", (), r"x must be \[\.\.\., D\], got \[\]"),
    ],
)
def test_shapes_that_do_not_agree(backend: str, name: str, shape: tuple[int, ...], message: str) -> None:
    tensors = {**arguments((3,), 8, 4), name: torch.zeros(shape)}
    with pytest.raises(LynxError, match=f"^adapter_mlp: {message}"):
        ops.adapter_mlp(**tensors, backend=backend)
    on_meta = {key: tensor.to("meta") for key, tensor in tensors.items()}
    with pytest.raises(LynxError, match=f"^adapter_mlp: {message}"):
        ops.adapter_mlp(**on_meta)


def test_mixed_dtypes_run_on_the_reference_and_keep_the_input_dtype() -> None:
    tensors = arguments((3,), 8, 4)
    tensors["x"] = tensors["x"].bfloat16()
    y = ops.adapter_mlp(**tensors)
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, ops.adapter_mlp(**wide).bfloat16())
    refused = (
        r"unknown backend .*_C is not built" if native.module() is None else r"cpu_avx2: .*\(got bfloat16, float32\)"
    )
    with pytest.raises(LynxError, match=refused):
        ops.adapter_mlp(**tensors, backend="cpu_avx2")
