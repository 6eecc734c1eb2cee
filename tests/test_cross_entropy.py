"""What the losses' common tests do not ask: rows that do not count, logits without a softmax, chunks, wrong labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lynx_engine.kernels.cross_entropy import fused
from torch import Tensor

from lynx_engine import LynxError, ops, registry

BACKENDS = [b.name for b in registry.ops()["cross_entropy"].backends if b.name != "cuda_triton"]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    (found,) = (b for b in registry.ops()["cross_entropy"].backends if b.name == name)
    if found.machine_refusals():
        pytest.skip("; ".join(found.machine_refusals()))
    return name


def loss_and_gradient(function: Any, logits: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    loss = function(leaf, *args, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_torchs(backend: str, reduction: str, smoothing: float) -> None:
    logits = torch.randn(37, 5003, generator=torch.Generator().manual_seed(0)) * 4
    labels = torch.arange(37) * 131
    labels[::4] = -100
    options = {"reduction": reduction, "label_smoothing": smoothing}
    actual = loss_and_gradient(ops.cross_entropy, logits, labels, backend=backend, **options)
    expected = loss_and_gradient(F.cross_entropy, logits.double(), labels, **options)
    for ours, torchs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, torchs.float(), rtol=2e-6, atol=1e-6)


def test_ignored_rows_are_not_looked_at(backend: str) -> None:
    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(0))
    poisoned = logits.clone()
    poisoned[1] = torch.nan
    labels = torch.tensor([3, -100, 69])
    for ours, wanted in zip(
        loss_and_gradient(ops.cross_entropy, poisoned, labels, backend=backend),
        loss_and_gradient(ops.cross_entropy, logits, labels, backend=backend),
        strict=True,
    ):
        assert torch.equal(ours, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_a_softmax_are_nan_as_in_torch(backend: str, dtype: torch.dtype) -> None:
    """-inf in places is probability 0; all -inf, one +inf or NaN is NaN; large numbers are as good as others."""
    logits = torch.randn(6, 4100, generator=torch.Generator().manual_seed(0))
    logits[0, :4000] = -torch.inf
    logits[1] = -torch.inf
    logits[2, 77] = torch.inf
    logits[3, 4099] = torch.nan
    logits[4] += 3e4
    logits[5] -= 3e4
    logits = logits.to(dtype)
    labels = torch.full((6,), 4098)
    loss, gradient = loss_and_gradient(ops.cross_entropy, logits, labels, reduction="none", backend=backend)
    expected, expected_gradient = loss_and_gradient(F.cross_entropy, logits.float(), labels, reduction="none")
    torch.testing.assert_close(loss, expected.to(dtype), equal_nan=True, rtol=1e-2, atol=0)
    assert torch.equal(gradient.isnan(), expected_gradient.isnan())


def test_a_rows_loss_does_not_depend_on_the_others(backend: str) -> None:
    logits = torch.randn(9, 4999, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(9)
    together = ops.cross_entropy(logits, labels, reduction="none", backend=backend)
    alone = [
        ops.cross_entropy(logits[t : t + 1], labels[t : t + 1], reduction="none", backend=backend) for t in range(9)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_a_padded_heads_logits_need_no_copy(backend: str) -> None:
    padded = torch.full((5, 128), torch.nan)
    padded[:, :101] = torch.randn(5, 101, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    view = ops.cross_entropy(padded[:, :101], labels, backend=backend)
    assert torch.equal(view, ops.cross_entropy(padded[:, :101].contiguous(), labels, backend=backend))


@pytest.mark.parametrize("rows", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_what_one_product_gives(
    backend: str, rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=generator).to(dtype).requires_grad_() for n in (29, 301))
    labels = torch.randint(0, 301, (29,), generator=generator)
    labels[3:9] = -100
    monkeypatch.setattr(fused, "_CHUNK_ROWS", rows)
    loss = ops.fused_linear_cross_entropy(hidden, weight, labels, label_smoothing=0.1, backend=backend)
    expected = F.cross_entropy(hidden.double() @ weight.double().T, labels, label_smoothing=0.1)
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    ours = torch.autograd.grad(loss, (hidden, weight))
    for gradient, truth in zip(ours, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        torch.testing.assert_close(gradient.float(), truth.float(), rtol=tolerance, atol=tolerance * 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_head_gives_the_same_bits(backend: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 40, generator=generator).to(dtype) for n in (5, 77))
    labels = torch.tensor([1, -100, 76, 3, 0])
    runs = [
        loss_and_gradient(ops.fused_linear_cross_entropy, hidden, head, labels, out_features=77, backend=backend)
        for head in (weight, ops.pack_linear(weight))
    ]
    if backend == registry.REFERENCE:  # torch's product on one side, linear's on the other
        torch.testing.assert_close(*runs, rtol=3e-2, atol=2e-2)
    else:
        assert all(map(torch.equal, *runs))
    with pytest.raises(LynxError, match="a packed weight needs out_features"):
        ops.fused_linear_cross_entropy(hidden, ops.pack_linear(weight), labels)


def test_a_frozen_head_gets_no_gradient(backend: str) -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(50, 8)
    loss = ops.fused_linear_cross_entropy(hidden, weight, torch.tensor([1, -100, -100, 49]), backend=backend)
    (gradient,) = torch.autograd.grad(loss * 3, hidden)
    reference = F.cross_entropy(hidden @ weight.T, torch.tensor([1, -100, -100, 49]))
    torch.testing.assert_close(gradient, 3 * torch.autograd.grad(reference, hidden)[0])
    assert not gradient[1:3].any()


def test_the_mean_of_no_rows_is_nan(backend: str) -> None:
    labels = torch.full((3,), -100)
    loss, gradient = loss_and_gradient(ops.cross_entropy, torch.randn(3, 9), labels, backend=backend)
    assert loss.isnan() and not gradient.any()
    assert ops.fused_linear_cross_entropy(torch.randn(3, 4), torch.randn(9, 4), labels, backend=backend).isnan()


@pytest.mark.parametrize("label", [-1, 9, 1 << 40])
def test_wrong_labels_are_named(label: int) -> None:
    if BACKENDS == [registry.REFERENCE]:
        pytest.skip("lynx_engine._C is not built")
    labels = torch.tensor([0, label])
    message = rf"labels must be -100 or in \[0, 9\), got {label} at 1"
    with pytest.raises(LynxError, match=f"cross_entropy: {message}"):
        ops.cross_entropy(torch.randn(2, 9), labels)
    with pytest.raises(LynxError, match=f"fused_linear_cross_entropy: {message}"):
        ops.fused_linear_cross_entropy(torch.randn(2, 4), torch.randn(9, 4), labels)


def test_wrong_options_are_named() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(LynxError, match="cross_entropy: reduction must be one of mean, sum, none, got 'average'"):
        ops.cross_entropy(torch.randn(2, 9), labels, reduction="average")
    with pytest.raises(LynxError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        ops.fused_linear_cross_entropy(torch.randn(2, 4), torch.randn(9, 4), labels, label_smoothing=1.5)
