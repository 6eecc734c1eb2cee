"""What is special about prefix_attention: who sees whom, rows that see nobody, caches, packing, padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lynx_engine import LynxError
from lynx_engine.ops import prefix_attention, prefix_attention_varlen
from lynx_engine.yardstick import assert_same_non_finite

VECTOR_BACKENDS = ("cpu_avx2", "cpu_avx512", "cpu_avx512_bf16")


@pytest.fixture
def backend(any_backend: str) -> str:
    return any_backend


def dtype_of(backend: str) -> torch.dtype:
    return torch.bfloat16 if backend in ("cpu_avx512_bf16", "cpu_amx") else torch.float32


def normal(backend: str, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype_of(backend))


def qkv(backend: str, B: int, Sq: int, Sk: int, H: int = 2, D: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(normal(backend, B, S, H, D, seed=seed) for seed, S in enumerate((Sq, Sk, Sk)))  # type: ignore[return-value]


def assert_close(actual: Tensor, expected: Tensor, backend: str) -> None:
    """To the rounding of the backend's dtype: sums of up to a few hundred numbers of order 1."""
    tolerance = 2e-2 if dtype_of(backend) == torch.bfloat16 else 2e-6
    torch.testing.assert_close(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)


def output_and_gradients(
    backend: str, q: Tensor, k: Tensor, v: Tensor, d_o: Tensor, **arguments: Any
) -> tuple[Tensor, ...]:
    """o, dq, dk, dv."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    o = prefix_attention(*leaves, backend=backend, **arguments)
    return (o.detach(), *torch.autograd.grad(o, leaves, d_o))


def attention_weights(backend: str, Sq: int, Sk: int, B: int = 1, **arguments: Any) -> Tensor:
    """[B, Sq, Sk]: with equal scores and the values of key j the j-th unit vector, a row of o is its weights."""
    q, k = torch.zeros(B, Sq, 1, Sk), torch.ones(B, Sk, 1, Sk)
    v = torch.eye(Sk).repeat(B, 1, 1)[:, :, None]
    o = prefix_attention(*(x.to(dtype_of(backend)) for x in (q, k, v)), backend=backend, **arguments)
    return o[:, :, 0].float()


def is_visible(query: int, key: int, Sq: int, Sk: int, prefix_len: int, causal: bool, mask_row: list[bool]) -> bool:
    """The definition, one pair at a time."""
    position = query + Sk - Sq
    in_prefix = key < prefix_len and position < prefix_len
    return mask_row[key] and (not causal or key <= position or in_prefix)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("Sq", "Sk"), [(9, 9), (3, 9), (1, 7), (9, 5), (70, 70), (130, 140)])
def test_each_query_weighs_exactly_the_keys_that_it_sees(backend: str, Sq: int, Sk: int, causal: bool) -> None:
    prefix_lens = [0, 1, Sk // 2, Sk, Sk + 3]
    kv_mask = torch.rand(len(prefix_lens), Sk, generator=torch.Generator().manual_seed(Sk)) > 0.4
    kv_mask[2] = True
    weights = attention_weights(
        backend, Sq, Sk, len(prefix_lens), prefix_lens=torch.tensor(prefix_lens), kv_mask=kv_mask, causal=causal
    )
    for b, prefix_len in enumerate(prefix_lens):
        mask_row = kv_mask[b].tolist()
        seen = [[is_visible(i, j, Sq, Sk, prefix_len, causal, mask_row) for j in range(Sk)] for i in range(Sq)]
        expected = torch.tensor(seen).float()
        expected[expected.sum(1) == 0] = 1.0  # a row that sees no key weighs all of them alike
        expected /= expected.sum(1, keepdim=True)
        torch.testing.assert_close(
            weights[b], expected, rtol=4e-3 if dtype_of(backend) == torch.bfloat16 else 1e-6, atol=0
        )


def test_a_row_that_sees_no_key_is_the_mean_of_all_values(backend: str) -> None:
    """Left padding at the start of a text-only prompt (and a query before the first key)."""
    q, k, v = (x.requires_grad_() for x in qkv(backend, 1, 80, 75))
    kv_mask = torch.ones(1, 75, dtype=torch.bool)
    kv_mask[:, :6] = False
    o = prefix_attention(q, k, v, kv_mask=kv_mask, backend=backend)
    blind = slice(0, 5 + 6)
    assert_close(o[0, blind], v[0].float().mean(0).expand(11, -1, -1), backend)
    d_o = torch.zeros_like(o)
    d_o[0, blind] = 1.0
    dq, dk, dv = torch.autograd.grad(o, (q, k, v), d_o)
    assert not dq.any() and not dk.any()
    assert_close(dv, torch.full_like(dv, 11 / 75), backend)


def test_what_is_hidden_has_no_influence(backend: str) -> None:
    """Not a bit of it: pads hold whatever the embedding of the pad token gives."""
    q, k, v = qkv(backend, 2, 40, 90)
    kv_mask = torch.rand(2, 90, generator=torch.Generator().manual_seed(3)) > 0.5
    kv_mask[:, :51] = kv_mask[:, :51] | (torch.arange(51) == 0)  # every query sees a key
    o = prefix_attention(q, k, v, kv_mask=kv_mask, backend=backend)
    hidden = ~kv_mask[:, :, None, None]
    other_k, other_v = k.masked_fill(hidden, 50.0), v.masked_fill(hidden, -7.0)
    assert torch.equal(prefix_attention(q, other_k, other_v, kv_mask=kv_mask, backend=backend), o)


def test_left_padded_rows_equal_their_prompts_alone(backend: str) -> None:
    """[vision][pads][text] in a batch, as the authors order it, against [vision][text] alone."""
    vision, text, length = 8, (30, 21, 7), 38
    q, k, v = qkv(backend, 3, length, length)
    kv_mask = torch.ones(3, length, dtype=torch.bool)
    for b, tokens in enumerate(text):
        kv_mask[b, vision : length - tokens] = False
    prefix_lens = torch.full((3,), vision)
    o = prefix_attention(q, k, v, kv_mask=kv_mask, prefix_lens=prefix_lens, backend=backend)
    for b in range(3):
        alone = (x[b : b + 1, kv_mask[b]] for x in (q, k, v))
        expected = prefix_attention(*alone, prefix_lens=prefix_lens[:1], backend=backend)
        assert_close(o[b, kv_mask[b]], expected[0], backend)


def test_packed_sequences_equal_each_alone(backend: str) -> None:
    lengths = [5, 0, 70, 1, 130]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    q, k, v = (x[0].requires_grad_() for x in qkv(backend, 1, sum(lengths), sum(lengths)))
    prefix_lens = torch.tensor([2, 0, 33, 1, 0])
    o = prefix_attention_varlen(q, k, v, bounds, bounds, prefix_lens=prefix_lens, backend=backend)
    d_o = normal(backend, *o.shape, seed=9)
    packed = (o, *torch.autograd.grad(o, (q, k, v), d_o))
    for b in range(len(lengths)):
        rows = slice(*bounds[b : b + 2].tolist())
        alone = (x[None, rows] for x in (q, k, v, d_o))
        expected = output_and_gradients(backend, *alone, prefix_lens=prefix_lens[b : b + 1])
        for one, other in zip(packed, expected, strict=True):
            assert torch.equal(one[rows], other[0])


def test_decoding_a_token_gives_the_row_of_the_prefill(backend: str) -> None:
    q, k, v = qkv(backend, 2, 150, 150)
    kv_mask = torch.ones(2, 150, dtype=torch.bool)
    kv_mask[1, 20:50] = False
    whole = prefix_attention(q, k, v, kv_mask=kv_mask, backend=backend)
    for t in (0, 1, 63, 64, 100, 149):
        seen = slice(0, t + 1)
        row = prefix_attention(q[:, t : t + 1], k[:, seen], v[:, seen], kv_mask=kv_mask[:, seen], backend=backend)
        assert_close(row, whole[:, t : t + 1], backend)
        if backend in VECTOR_BACKENDS:
            assert torch.equal(row, whole[:, t : t + 1])


def test_a_prompt_in_two_pieces_equals_the_prompt_at_once(backend: str) -> None:
    q, k, v = qkv(backend, 1, 120, 120)
    prefix_lens = torch.tensor([32])
    whole = prefix_attention(q, k, v, prefix_lens=prefix_lens, backend=backend)
    first = prefix_attention(q[:, :50], k[:, :50], v[:, :50], prefix_lens=prefix_lens, backend=backend)
    second = prefix_attention(q[:, 50:], k, v, prefix_lens=prefix_lens, backend=backend)
    assert_close(torch.cat((first, second), dim=1), whole, backend)


def test_a_row_does_not_depend_on_its_batch(backend: str) -> None:
    if backend == "reference":
        pytest.skip("torch's batched products do depend on the batch")
    q, k, v = qkv(backend, 5, 33, 66)
    d_o = normal(backend, *q.shape, seed=4)
    batched = output_and_gradients(backend, q, k, v, d_o)
    alone = output_and_gradients(backend, *(x[3:4] for x in (q, k, v, d_o)))
    assert all(torch.equal(one[3:4], other) for one, other in zip(batched, alone, strict=True))


def test_scores_far_apart_neither_overflow_nor_vanish(backend: str) -> None:
    q, k, v = qkv(backend, 1, 100, 100, D=64)
    o = prefix_attention(q * 100, k * 30, v, backend=backend)
    truth = prefix_attention((q * 100).double(), (k * 30).double(), v.double(), backend="reference")
    torch.testing.assert_close(o.double(), truth, rtol=2e-2, atol=2e-2 if dtype_of(backend) == torch.bfloat16 else 1e-3)
    assert_close(
        prefix_attention(q, k, v, softmax_scale=0.0, causal=False, backend=backend)[0, 0], v[0].float().mean(0), backend
    )


@pytest.mark.parametrize("where", ["q", "k", "v", "hidden k", "hidden v", "future v", "d_o"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_numbers_spread_as_in_the_reference(backend: str, where: str, value: float) -> None:
    q, k, v = qkv(backend, 1, 140, 150, H=1)
    d_o = normal(backend, *q.shape, seed=5)
    kv_mask = torch.ones(1, 150, dtype=torch.bool)
    kv_mask[:, 40:45] = False
    row = {"hidden k": 42, "hidden v": 42, "future v": 149}.get(where, 77)
    {"q": q, "k": k, "v": v, "d_o": d_o}[where.split()[-1]][0, row, 0, 5] = value

    mask = {"kv_mask": kv_mask, "prefix_lens": torch.tensor([30])}
    actual = output_and_gradients(backend, q, k, v, d_o, **mask)
    expected = output_and_gradients("reference", *(x.float() for x in (q, k, v, d_o)), **mask)
    for name, one, other in zip("oqkv", actual, expected, strict=True):
        assert_same_non_finite(one, other, f"{value} in {where}: {name}")


def test_lengths_and_masks_of_any_integer_type(backend: str) -> None:
    q, k, v = qkv(backend, 2, 9, 9)
    lens, mask = torch.tensor([4, 0]), torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1, 1]] * 2)
    o = prefix_attention(q, k, v, prefix_lens=lens, kv_mask=mask, backend=backend)
    for other_lens, other_mask in [(lens.int(), mask.bool()), (lens.short(), mask.float()), (lens, mask.byte() * 200)]:
        same = prefix_attention(q, k, v, prefix_lens=other_lens, kv_mask=other_mask, backend=backend)
        assert torch.equal(same, o)


def test_one_tensor_for_several_arguments_compiles() -> None:
    x = torch.randn(2, 9, 2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bounds = torch.tensor([0, 4, 18])

    def twice(x: Tensor) -> Tensor:
        packed = x.flatten(0, 1)
        return prefix_attention(x, x, x).flatten(0, 1) + prefix_attention_varlen(packed, packed, packed, bounds, bounds)

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), twice(x))
    gradients = [torch.autograd.grad(f(x).square().sum(), x)[0] for f in (compiled, twice)]
    torch.testing.assert_close(*gradients)


def test_a_wide_head_runs_on_the_reference() -> None:
    q, k, v = qkv("reference", 1, 3, 3, D=300)
    assert torch.equal(prefix_attention(q, k, v), prefix_attention(q, k, v, backend="reference"))
    with pytest.raises(LynxError, match=r"cpu_avx2: .*needs head_dim 1 to 256 \(got 300\)"):
        prefix_attention(q, k, v, backend="cpu_avx2")


WRONG_CALLS = [
    (
        {"k": (1, 7, 3, 8)},
        r"prefix_attention: k must be \[B=1, Sk=7, H=2, D=8\], got \[1, 7, 3, 8\] \(H was set by q\)",
    ),
    ({"v": (1, 6, 2, 8)}, r"v must be \[B=1, Sk=7, H=2, D=8\], got \[1, 6, 2, 8\] \(Sk was set by k\)"),
    ({"q": (5, 2, 8)}, r"q must be \[B, Sq, H, D\], got \[5, 2, 8\]"),
    ({"prefix_lens": (2,)}, r"prefix_lens must be \[B=1\], got \[2\]"),
    ({"kv_mask": (1, 5)}, r"kv_mask must be \[B=1, Sk=7\], got \[1, 5\]"),
]


@pytest.mark.parametrize(("shapes", "message"), WRONG_CALLS)
def test_shapes_that_do_not_agree(backend: str, shapes: dict[str, tuple[int, ...]], message: str) -> None:
    right = {"q": (1, 5, 2, 8), "k": (1, 7, 2, 8), "v": (1, 7, 2, 8)}
    arguments = {name: torch.ones(shape, dtype=dtype_of(backend)) for name, shape in {**right, **shapes}.items()}
    with pytest.raises(LynxError, match=message):
        prefix_attention(**arguments, backend=backend)


@pytest.mark.parametrize("bounds", [[0, 3], [1, 5], [0, 4, 2, 5], [0, 3, 6], []])
def test_bounds_that_do_not_cover_the_rows(backend: str, bounds: list[int]) -> None:
    q = k = v = torch.ones(5, 1, 8, dtype=dtype_of(backend))
    wrong = torch.tensor(bounds, dtype=torch.int32)
    with pytest.raises(LynxError, match=r"prefix_attention_varlen: cu_seqlens_q must rise from 0 to 5"):
        prefix_attention_varlen(q, k, v, wrong, wrong, backend=backend)
