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
from lynx_engine.weights import Quantization
from lynx_engine.weights.fit import meta_model
from lynx_engine.weights.info import PARTS, part_of


@dataclass(frozen=True)
class Work:
    """What one call must do."""

    flops: int
    bytes: int

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True)
class Stored:
    """How numbers lie in memory: in `itemsize` bytes each, the model's linears in `quantize` "int8" or "int4"."""

    itemsize: int
    quantize: str | None = None

    def bytes_of(self, config: LynxConfig) -> dict[str, int]:
        """Of each part that `count_parameters` names, the bytes of its weights."""
        return _bytes(config, self)


def linear(rows: int, fan_in: int, fan_out: int) -> int:
    """FLOPs of `rows` vectors through a [fan_out, fan_in] weight."""
    return 2 * rows * fan_in * fan_out


def attention(width: int, pairs: int) -> int:
    """FLOPs of q k^T and p v: `pairs` of a query and a key that it sees, `width` = heads x head_dim."""
    return 4 * width * pairs


def causal_pairs(queries: int, keys: int) -> int:
    """Pairs in one row of a batch whose last query sees every key."""
    return queries * keys - queries * (queries - 1) // 2


def vision(config: LynxConfig, batch: int, stored: Stored) -> Work:
    """The ViT on `batch` uint8 images: [B, S, S, 3] -> [B, 1 + (S/P)^2, D]."""
    vit = config.vision
    width, tokens = vit.hidden_size, vit.num_tokens
    rows = batch * tokens
    layer = linear(rows, width, 4 * width) + 2 * linear(rows, width, vit.intermediate_size)
    layer += attention(width, batch * tokens**2)
    patches = linear(batch * vit.grid_size**2, 3 * vit.patch_size**2, width)
    read = stored.bytes_of(config)["vision_encoder"] + 3 * batch * vit.image_size**2
    return Work(patches + vit.num_layers * layer, read + stored.itemsize * rows * width)


def resampler(config: LynxConfig, batch: int, stored: Stored) -> Work:
    """The bridge on the tokens of `batch` images: [B, N, Dv] -> [B, num_latents, H]."""
    bridge, hidden = config.bridge, config.llm.hidden_size
    inner, latents = bridge.num_heads * bridge.head_dim, batch * bridge.num_latents
    media, media_width = batch * config.vision.num_tokens, config.vision.hidden_size
    layer = linear(latents, hidden, inner) + linear(media, media_width, 2 * inner) + linear(latents, inner, hidden)
    layer += attention(inner, bridge.num_latents * media) + 2 * linear(latents, hidden, bridge.ff_mult * hidden)
    values = media * media_width + latents * hidden
    return Work(bridge.num_layers * layer, stored.bytes_of(config)["bridge"] + stored.itemsize * values)


def prefill(config: LynxConfig, batch: int, positions: int, stored: Stored) -> Work:
    """The decoder on [B, S, H] embeddings: keys and values of all positions, logits of each row's last."""
    llm = config.llm
    flops = _decoder(config, batch, positions, positions).forward + _head(config, batch)
    cache = 2 * llm.num_layers * batch * positions * llm.hidden_size
    values = batch * positions * llm.hidden_size + cache + batch * llm.vocab_size
    return Work(flops, _decoder_weights(config, stored) + stored.itemsize * values)


def decode(config: LynxConfig, batch: int, past: int, stored: Stored) -> Work:
    """One new token in each of `batch` rows, behind `past` cached positions that no two rows share."""
    llm = config.llm
    flops = _decoder(config, batch, 1, past + 1).forward + _head(config, batch)
    cache = 2 * llm.num_layers * batch * (past + 1) * llm.hidden_size
    values = batch * llm.hidden_size + cache + batch * llm.vocab_size
    return Work(flops, _decoder_weights(config, stored) + stored.itemsize * values)


def answer(config: LynxConfig, beams: int, positions: int, new_tokens: int, stored: Stored) -> Work:
    """One prompt and `new_tokens` more: the prefill gives the first, each other costs one step of all beams."""
    total = prefill(config, 1, positions, stored)
    for past in range(positions, positions + new_tokens - 1):
        total += decode(config, beams, past, stored)
    return total


def train_step(config: LynxConfig, batch: int, text_tokens: int, stored: Stored) -> Work:
    """Forward, backward and AdamW on `batch` samples of an image and `text_tokens` tokens.

    Logits are those that the loss asks for: of every token but the last, which has no next one.

    ViT and LLM are frozen: the ViT has no backward, the LLM's linears give the gradient of their input only (as many
    FLOPs as forward); bridge, adapters and attention cost twice their forward. Bytes: frozen weights are read in
    forward, the LLM's again in backward; a trained weight is read in both, its gradient written and read, itself and
    the two moments of AdamW read and written: ten passes.
    """
    positions = config.bridge.num_latents + text_tokens
    eyes, bridge = vision(config, batch, stored), resampler(config, batch, stored)
    decoder, head = _decoder(config, batch, positions, positions), _head(config, batch * (text_tokens - 1))
    flops = eyes.flops + 3 * bridge.flops + decoder.forward + decoder.backward + 2 * head
    parts = stored.bytes_of(config)
    trained = parts["bridge"] + parts["adapters"]
    frozen = parts["vision_encoder"] + 2 * (_decoder_weights(config, stored) - parts["adapters"])
    return Work(flops, frozen + 10 * trained + 3 * batch * config.vision.image_size**2)


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


def _decoder_weights(config: LynxConfig, stored: Stored) -> int:
    """Bytes of what every step reads: the table of embeddings is not among them, one row a token is."""
    parts = stored.bytes_of(config)
    return parts["LLM"] + parts["adapters"] - stored.itemsize * config.llm.vocab_size * config.llm.hidden_size


@functools.cache
def _bytes(config: LynxConfig, stored: Stored) -> dict[str, int]:
    model = meta_model(config)
    if stored.quantize is not None:
        Quantization(stored.quantize).hold(model)
    sizes = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        sizes[part_of(name)] += stored.itemsize * parameter.numel()
    for name, codes_or_scales in model.named_buffers():
        sizes[part_of(name)] += codes_or_scales.nbytes
    return sizes
