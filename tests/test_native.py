"""csrc/core from outside: borrowed tensors, the shape contract, the thread pool across threads and forks."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from lynx_engine import native, ops
from lynx_engine.errors import LynxError

COMPILED = native.module()
pytestmark = pytest.mark.skipif(
    COMPILED is None or bool(native.isa_refusals("avx2")), reason="lynx_engine._C is not built, or no AVX2 here"
)


def arguments(T: int = 3, D: int = 8, R: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(T)
    shapes = {
        "x": (T, D),
        "norm_weight": (D,),
        "norm_bias": (D,),
        "down_weight": (R, D),
        "down_bias": (R,),
        "up_weight": (D, R),
        "up_bias": (D,),
        "scaling": (1,),
    }
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def call_kernel(tensors: dict[str, Any], y: Any) -> None:
    """The compiled function itself, without the Python above it."""
    kernel, _ = native.kernels("adapter_mlp")["cpu_avx2"]
    kernel(*tensors.values(), 1e-5, y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.uint8])
def test_torch_tensors_are_seen_as_they_are(dtype: torch.dtype) -> None:
    base = torch.zeros(5, 6, 7, dtype=dtype)
    for tensor in (base, base[1:, ::2], base.transpose(0, 2), base[:0], base[2, 3, 4], base.requires_grad_(False)):
        seen = COMPILED.describe(tensor)
        assert (seen["shape"], seen["dtype"]) == (tuple(tensor.shape), str(dtype)[6:])
        assert seen["strides"] == tensor.stride()
        assert seen["address"] == tensor.data_ptr()
    needs_grad = torch.zeros(2, requires_grad=True)
    assert COMPILED.describe(needs_grad)["address"] == needs_grad.data_ptr()


def test_numpy_arrays_are_seen_as_they_are() -> None:
    base = np.zeros((5, 6, 7), dtype=np.float32)
    for array in (base, base[1:, ::2], base.T, np.zeros(3, dtype=np.int64)):
        seen = COMPILED.describe(array)
        assert (seen["shape"], seen["dtype"]) == (array.shape, array.dtype.name)
        assert seen["strides"] == tuple(stride // array.itemsize for stride in array.strides)
        assert seen["address"] == array.ctypes.data


def test_a_kernel_takes_numpy_and_writes_into_it() -> None:
    tensors = arguments()
    y = np.full((3, 8), np.nan, dtype=np.float32)
    call_kernel({name: tensor.numpy() for name, tensor in tensors.items()}, y)
    assert np.array_equal(y, ops.adapter_mlp(**tensors, backend="cpu_avx2").numpy())


def test_what_is_no_tensor_is_refused() -> None:
    for thing in (None, 3, "tensor", [1.0, 2.0], {}):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            COMPILED.describe(thing)


def test_borrowing_keeps_no_reference() -> None:
    import sys

    array = np.zeros((4, 4), dtype=np.float32)
    before = sys.getrefcount(array)
    for _ in range(10):
        COMPILED.describe(array)
    assert sys.getrefcount(array) == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("down_weight", torch.zeros(4, 9), r"down_weight must be \[R=4, D=8\], got \[4, 9\] \(D was set by x\)"),
        ("up_weight", torch.zeros(8, 5), r"up_weight must be \[D=8, R=4\], got \[8, 5\] \(R was set by down_weight\)"),
        ("up_bias", torch.zeros(8, 1), r"up_bias must be \[D=8\], got \[8, 1\]"),
        ("scaling", torch.zeros(2), r"scaling must be \[1\], got \[2\]"),
        ("norm_bias", torch.zeros(8, dtype=torch.float64), "norm_bias must be float32, got float64"),
        ("norm_weight", torch.zeros(16)[::2], r"norm_weight must be contiguous, got shape \[8\] with last stride 2"),
        (
            "x",
            torch.zeros(3, 16)[:, ::2],
            r"x must be contiguous in its last axis, got shape \[3, 8\] with last stride 2",
        ),
    ],
)
def test_contract_says_what_was_wrong(name: str, value: torch.Tensor, message: str) -> None:
    with pytest.raises(LynxError, match=f"^adapter_mlp: {message}"):
        call_kernel({**arguments(), name: value}, torch.empty(3, 8))


def test_read_only_output_is_refused() -> None:
    y = np.zeros((3, 8), dtype=np.float32)
    y.flags.writeable = False
    with pytest.raises(LynxError, match="y is read-only and must be writable"):
        call_kernel(arguments(), y)
    assert not y.any()


def test_calls_from_many_threads_agree() -> None:
    """Loops that meet in the one pool run beside each other or in their caller: same bits either way."""
    tensors = arguments(T=200, D=130, R=70)
    expected = ops.adapter_mlp(**tensors, backend="cpu_avx2")
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(lambda _: ops.adapter_mlp(**tensors, backend="cpu_avx2"), range(60)))
    assert all(torch.equal(result, expected) for result in results)


def test_changing_the_number_of_threads_between_calls() -> None:
    tensors = arguments(T=200, D=130, R=70)
    expected = ops.adapter_mlp(**tensors, backend="cpu_avx2")
    before = COMPILED.num_threads()
    for threads in (1, 4, 2, 5, 3):
        COMPILED.set_num_threads(threads)
        assert torch.equal(ops.adapter_mlp(**tensors, backend="cpu_avx2"), expected)
    COMPILED.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_too() -> None:
    """A child has its parent's pool in memory but not its threads: it must start its own, not wait for ever."""
    tensors = arguments(T=200, D=130, R=70)
    before = COMPILED.num_threads()
    COMPILED.set_num_threads(3)
    y = torch.empty(200, 130)
    call_kernel(tensors, y)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        again = np.empty((200, 130), dtype=np.float32)
        call_kernel({name: tensor.numpy() for name, tensor in tensors.items()}, again)
        os._exit(0 if np.array_equal(again, y.numpy()) else 1)
    assert os.waitpid(child, 0)[1] == 0
    COMPILED.set_num_threads(before)
