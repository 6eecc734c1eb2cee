"""The KV cache against a plain list of tensors: append, grow, expand to beams, reorder, drop rows."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from lynx_engine.generate import KVCache

LAYERS, HEADS, DIM = 3, 2, 4


class NaiveCache:
    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor] | None] = [None] * LAYERS

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        held = self.layers[layer]
        both = (k, v) if held is None else (torch.cat((held[0], k), 1), torch.cat((held[1], v), 1))
        self.layers[layer] = both
        return both

    def reorder(self, parents: list[int]) -> None:
        self.layers = [None if held is None else (held[0][parents], held[1][parents]) for held in self.layers]


def update(cache: KVCache, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write k and v where the cache wants them; all that it holds then."""
    keys, values, starts = cache.reserve(layer, k)
    assert starts.tolist() == [cache.length] * k.shape[0]
    end = cache.length + k.shape[1]
    keys[:, cache.length : end], values[:, cache.length : end] = k, v
    return keys[:, :end], values[:, :end]


def append(cache: KVCache, naive: NaiveCache, rows: int, num_tokens: int) -> None:
    for layer in range(LAYERS):
        k, v = torch.randn(2, rows, num_tokens, HEADS, DIM)
        got, wanted = update(cache, layer, k, v), naive.update(layer, k, v)
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1])
    cache.advance(num_tokens)


@pytest.mark.parametrize("seed", range(8))
def test_beams_of_several_prompts_over_many_steps(seed: int) -> None:
    rng = random.Random(seed)
    prompts, beams = rng.randint(1, 3), rng.randint(1, 4)
    cache, naive = KVCache(LAYERS), NaiveCache()
    append(cache, naive, prompts, rng.randint(1, 70))
    cache.end_prompt()
    origins = [prompt for prompt in range(prompts) for _ in range(beams)]
    parents = list(origins)
    for _ in range(90):
        cache.reorder(parents)
        naive.reorder(parents)
        append(cache, naive, len(parents), 1)
        left = sorted(set(origins))
        if len(left) > 1 and rng.random() < 0.02:
            left.remove(rng.choice(left))
        rows = [[row for row, origin in enumerate(origins) if origin == prompt] for prompt in left]
        parents = [rng.choice(own) for own in rows for _ in range(beams)]
        origins = [origins[parent] for parent in parents]


def test_rows_of_another_prompt_move_whole() -> None:
    cache, naive = KVCache(LAYERS), NaiveCache()
    append(cache, naive, 3, 5)
    cache.end_prompt()
    for parents in ([2, 0, 1], [1, 1], [1, 0, 1, 0, 1]):
        cache.reorder(parents)
        naive.reorder(parents)
        append(cache, naive, len(parents), 1)


def test_unmoved_rows_are_appended_in_place() -> None:
    cache = KVCache(1)
    k = torch.randn(2, 3, HEADS, DIM)
    before, _ = update(cache, 0, k, k)
    cache.advance(3)
    cache.reorder([0, 1])
    after, _ = update(cache, 0, k[:, :1], k[:, :1])
    assert after.data_ptr() == before.data_ptr()
    assert torch.equal(after[:, :3], k)
    assert cache.length == 3
