"""What is special about paged_attention: its rows are those of prefix_attention, wherever the blocks lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lynx_engine import LynxError, native
from lynx_engine.ops import paged_attention, prefix_attention
from lynx_engine.registry import ops

LENGTHS, H, D, BLOCK = (300, 1, 17, 1030), 4, 40, 16


@pytest.fixture
def backend(any_backend: str) -> str:
    return any_backend


@pytest.fixture(autouse=True)
def offered(backend: str) -> None:
    if backend not in {b.name for b in ops()["paged_attention"].backends}:
        pytest.skip(f"paged_attention has no {backend}")


def cache_of(rows: list[Tensor], block_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [S, H_kv, D] of each sequence in blocks anywhere, and the table that finds them."""
    counts = [-(-len(x) // block_size) for x in rows]
    order = torch.randperm(sum(counts), generator=torch.Generator().manual_seed(seed)).tolist()
    cache = torch.full((sum(counts), block_size, *rows[0].shape[1:]), torch.nan, dtype=rows[0].dtype)
    table = torch.full((len(rows), max(counts)), -1, dtype=torch.int32)
    for b, x in enumerate(rows):
        for i in range(counts[b]):
            table[b, i] = order.pop()
            part = x[i * block_size : (i + 1) * block_size]
            cache[table[b, i], : len(part)] = part
    return cache, table


def inputs(dtype: torch.dtype, H_kv: int = H) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(7)
    q = torch.randn(len(LENGTHS), H, D, generator=generator).to(dtype)
    k, v = ([torch.randn(n, H_kv, D, generator=generator).to(dtype) for n in LENGTHS] for _ in "kv")
    return q, k, v


def paged(q: Tensor, k: list[Tensor], v: list[Tensor], backend: str, block_size: int = BLOCK, seed: int = 0) -> Tensor:
    k_cache, table = cache_of(k, block_size, seed)
    v_cache, _ = cache_of(v, block_size, seed)
    lens = torch.tensor([len(x) for x in k], dtype=torch.int32)
    return paged_attention(q, k_cache, v_cache, table, lens, backend=backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("H_kv", [H, 2, 1])
def test_rows_are_those_of_prefix_attention(backend: str, dtype: torch.dtype, H_kv: int) -> None:
    if backend == "cpu_avx512_bf16" and dtype == torch.float32:
        pytest.skip("bfloat16 only")
    q, k, v = inputs(dtype, H_kv)
    o = paged(q, k, v, backend)
    for b in range(len(LENGTHS)):
        dense = (x[b].repeat_interleave(H // H_kv, dim=1)[None] for x in (k, v))
        row = prefix_attention(q[b, None, None], *dense, backend=backend)[0, 0]
        if backend == "reference":
            torch.testing.assert_close(o[b], row)
        else:
            assert torch.equal(o[b], row)


def test_neither_batch_nor_blocks_nor_threads_change_a_bit(backend: str) -> None:
    if backend == "reference":
        pytest.skip("torch's products depend on their sizes")
    q, k, v = inputs(torch.bfloat16)
    o = paged(q, k, v, backend)
    compiled = native.module()
    assert compiled is not None
    before = compiled.num_threads()
    for threads, block_size, seed in ((1, 1, 1), (2, 7, 2), (3, 256, 3), (64, 16, 4)):
        compiled.set_num_threads(threads)
        again = paged(q, k, v, backend, block_size, seed)
        alone = torch.cat([paged(q[b : b + 1], k[b : b + 1], v[b : b + 1], backend) for b in range(len(LENGTHS))])
        compiled.set_num_threads(before)
        assert torch.equal(again, o)
        assert torch.equal(alone, o)


WRONG_CALLS = [
    ({"seq_lens": [33, 4]}, r"seq_lens\[0\] must be 0 to 32, what block_table\[0\] holds, got 33"),
    ({"seq_lens": [-1, 4]}, r"seq_lens\[0\] must be 0 to 32, .* got -1"),
    ({"block_table": [[0, 5], [1, 2]]}, r"block_table\[0, 1\] must be 0 to 4, got 5"),
    ({"block_table": [[0, -1], [1, 2]]}, r"block_table\[0, 1\] must be 0 to 4, got -1"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_CALLS)
def test_places_that_are_not_there(backend: str, change: dict[str, list[int]], message: str) -> None:
    cache = torch.zeros(5, 16, 2, 8, dtype=torch.bfloat16)
    places = {"block_table": [[0, 3], [1, 2]], "seq_lens": [32, 4], **change}
    q = torch.zeros(2, 2, 8, dtype=torch.bfloat16)
    tensors = {name: torch.tensor(value, dtype=torch.int32) for name, value in places.items()}
    with pytest.raises(LynxError, match=rf"paged_attention: {message}"):
        paged_attention(q, cache, cache, **tensors, backend=backend)


def test_query_heads_that_kv_heads_do_not_divide(backend: str) -> None:
    cache = torch.zeros(5, 16, 2, 8, dtype=torch.bfloat16)
    places = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    with pytest.raises(LynxError, match="paged_attention: 3 query heads need num_kv_heads to divide them"):
        paged_attention(torch.zeros(1, 3, 8, dtype=torch.bfloat16), cache, cache, *places, backend=backend)


def test_one_scale_alone() -> None:
    cache = torch.zeros(5, 16, 2, 8, dtype=torch.int8)
    places = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    with pytest.raises(LynxError, match="k_scale and v_scale go together"):
        paged_attention(torch.zeros(1, 2, 8), cache, cache, *places, k_scale=torch.ones(5, 16, 2))
