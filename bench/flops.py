"""FLOPs and bytes of whole parts by formula: what must be computed, and what must be read or written at least once.

A FLOP is a multiplication or an addition of a matrix product, so a product [M, K] x [K, N] has 2 M K N; norms,
activations, softmax, RoPE and the optimizer are left out. Causal attention counts the pairs that causality leaves.
Bytes are every weight once, the inputs, the outputs and the KV cache; what stays in caches inside a part is free.
tests/test_bench_flops.py holds the formulas against torch's own counter.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from lynx_engine.config import LynxConfig
from lynx_engine.weights import count_parameters


@dataclass(frozen=True)
class Work:
    """What one call must do."""

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def linear(rows: int, fan_in: int, fan_out: int) -> int:
    """FLOPs of `rows` vectors through a [fan_out, fan_in] weight."""
    return 2 * rows * fan_in * fan_out


def attention(width: int, pairs: int) -> int:
    """FLOPs of q k^T and p v: `pairs` of a query and a key that it sees, `width` = heads x head_dim."""
    return 4 * width * pairs


def causal_pairs(queries: int, keys: int) -> int:
    """Pairs in one row of a batch whose last query sees every key."""
    return queries * keys - queries * (queries - 1) // 2


def vision(config: LynxConfig, batch: int, itemsize: int) -> Work:
    """The ViT on `batch` uint8 images: [B, S, S, 3] -> [B, 1 + (S/P)^2, D]."""
    vit = config.vision
    width, tokens = vit.hidden_size, vit.num_tokens
    rows = batch * tokens
    layer = linear(rows, width, 4 * width) + 2 * linear(rows, width, vit.intermediate_size)
    layer += attention(width, batch * tokens**2)
    patches = linear(batch * vit.grid_size**2, 3 * vit.patch_size**2, width)
    values = _parameters(config)["vision_encoder"] + rows * width
    return Work(patches + vit.num_layers * layer, itemsize * values + 3 * batch * vit.image_size**2)


def resampler(config: LynxConfig, batch: int, itemsize: int) -> Work:
    """The bridge on the tokens of `batch` images: [B, N, Dv] -> [B, num_latents, H]."""
    bridge, hidden = config.bridge, config.llm.hidden_size
    inner, latents = bridge.num_heads * bridge.head_dim, batch * bridge.num_latents
    media, media_width = batch * config.vision.num_tokens, config.vision.hidden_size
    layer = linear(latents, hidden, inner) + linear(media, media_width, 2 * inner) + linear(latents, inner, hidden)
    layer += attention(inner, bridge.num_latents * media) + 2 * linear(latents, hidden, bridge.ff_mult * hidden)
    values = _parameters(config)["bridge"] + media * media_width + latents * hidden
    return Work(bridge.num_layers * layer, itemsize * values)


def prefill(config: LynxConfig, batch: int, positions: int, itemsize: int) -> Work:
    """The decoder on [B, S, H] embeddings: keys and values of all positions, logits of each row's last."""
    llm = config.llm
    flops = _decoder(config, batch, positions, positions).forward + _head(config, batch)
    cache = 2 * llm.num_layers * batch * positions * llm.hidden_size
    values = _decoder_weights(config) + batch * positions * llm.hidden_size + cache + batch * llm.vocab_size
    return Work(flops, itemsize * values)


def decode(config: LynxConfig, batch: int, past: int, itemsize: int) -> Work:
    """One new token in each of `batch` rows, behind `past` cached positions that no two rows share."""
    llm = config.llm
    flops = _decoder(config, batch, 1, past + 1).forward + _head(config, batch)
    cache = 2 * llm.num_layers * batch * (past + 1) * llm.hidden_size
    values = _decoder_weights(config) + batch * llm.hidden_size + cache + batch * llm.vocab_size
    return Work(flops, itemsize * values)


def answer(config: LynxConfig, beams: int, positions: int, new_tokens: int, itemsize: int) -> Work:
    """One prompt and `new_tokens` more: the prefill gives the first, each other costs one step of all beams."""
    total = prefill(config, 1, positions, itemsize)
    for past in range(positions, positions + new_tokens - 1):
        total += decode(config, beams, past, itemsize)
    return total


def train_step(config: LynxConfig, batch: int, text_tokens: int, itemsize: int) -> Work:
    """Forward, backward and AdamW on `batch` samples of an image and `text_tokens` tokens, logits everywhere.

    ViT and LLM are frozen: the ViT has no backward, the LLM's linears give the gradient of their input only (as many
    FLOPs as forward); bridge, adapters and attention cost twice their forward. Bytes: frozen weights are read in
    forward, the LLM's again in backward; a trained weight is read in both, its gradient written and read, itself and
    the two moments of AdamW read and written: ten passes.
    """
    positions = config.bridge.num_latents + text_tokens
    eyes, bridge = vision(config, batch, itemsize), resampler(config, batch, itemsize)
    decoder, head = _decoder(config, batch, positions, positions), _head(config, batch * positions)
    flops = eyes.flops + 3 * bridge.flops + decoder.forward + decoder.backward + 2 * head
    parts = _parameters(config)
    trained = parts["bridge"] + parts["adapters"]
    frozen = parts["vision_encoder"] + 2 * (_decoder_weights(config) - parts["adapters"])
    return Work(flops, itemsize * (frozen + 10 * trained) + 3 * batch * config.vision.image_size**2)


@dataclass(frozen=True)
class _Decoder:
    """FLOPs of the decoder's layers in one forward: frozen linears, attention, adapters."""

    linears: int
    attention: int
    adapters: int

    @property
    def forward(self) -> int:
        return self.linears + self.attention + self.adapters

    @property
    def backward(self) -> int:
        return self.linears + 2 * self.attention + 2 * self.adapters


def _decoder(config: LynxConfig, batch: int, queries: int, keys: int) -> _Decoder:
    llm, rows = config.llm, batch * queries
    hidden = llm.hidden_size
    linears = linear(rows, hidden, 4 * hidden) + 3 * linear(rows, hidden, llm.intermediate_size)
    return _Decoder(
        llm.num_layers * linears,
        llm.num_layers * attention(hidden, batch * causal_pairs(queries, keys)),
        len(config.adapter_layers) * 2 * linear(rows, hidden, hidden // 2),
    )


def _head(config: LynxConfig, rows: int) -> int:
    return linear(rows, config.llm.hidden_size, config.llm.vocab_size)


def _decoder_weights(config: LynxConfig) -> int:
    """Parameters that every step reads: the table of embeddings is not among them, one row a token is."""
    parts = _parameters(config)
    return parts["LLM"] + parts["adapters"] - config.llm.vocab_size * config.llm.hidden_size


@functools.cache
def _parameters(config: LynxConfig) -> dict[str, int]:
    return dict(count_parameters(config).parts)
