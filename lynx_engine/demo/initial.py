"""How the demo's language model starts: weights as its width wants them, and heads that find a name and what follows.

To answer "what size is the red star?" from "red star big" takes two heads in a row: one that tells a token which tokens
stand before it, and one that goes from a name to the tokens behind the same name elsewhere (an induction head: Olsson
and others, arXiv 2209.11895). Large models grow the pair within their first billion tokens. This one reads ten million,
so it starts with it and training shapes the rest: mimetic initialisation (Trockman and Kolter, arXiv 2305.09828).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from ..model.decoder import LlamaAttention, LlamaForCausalLM, LlamaLayer

_LOOK_BACK = 3  # tokens that a token knows of those before it
_POSITION_GAIN, _CONTENT_GAIN, _TOKEN_GAIN = 40.0, 1.7, 1.35  # such that a head attends to one or two tokens
_FAST = 4  # rotary pairs that tell a token from its neighbour
_SLOW = 0.02  # radians a token, below which a rotary pair hardly turns within a chat


def initialise(llm: LlamaForCausalLM, seed: int = 0) -> None:
    """Overwrites the authors' initial values, whose deviation of 0.02 suits 4096 channels, not 192.

    Matrices get a deviation of 1/sqrt(fan_in), those that write to the residual stream less by the square root of the
    number that do. The first half of the channels holds the token, channel 0 the constant 1; each further sixth is for
    what stands one, two and three tokens back, where the first layer writes it.
    """
    config = llm.model.config
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, linear in llm.named_modules():
            if isinstance(linear, nn.Linear) and ".output_adapter." not in name:
                shrink = 2 * config.num_layers if name.endswith(("o_proj", "down_proj")) else 1
                linear.weight.normal_(0.0, (linear.in_features * shrink) ** -0.5, generator=generator)
        embedding = llm.model.embed_tokens.weight
        token_channels = config.hidden_size // 2
        embedding.zero_()
        embedding[:, 1:token_channels].normal_(0.0, 0.3 * math.sqrt(2), generator=generator)
        embedding[:, 0] = 1.0
        first, second = (cast(LlamaLayer, layer).self_attn for layer in list(llm.model.layers)[:2])
        half = config.head_dim // 2
        angles = config.rope_theta ** (-torch.arange(half) / half)
        read_token = torch.zeros(config.head_dim, config.hidden_size)
        read_token[:, 1:token_channels].normal_(0.0, token_channels**-0.5, generator=generator)
        _look_back(first, angles, read_token, float(embedding.square().mean().sqrt()))
        _find_names(second, angles, read_token, generator)


def _look_back(attention: LlamaAttention, angles: Tensor, read_token: Tensor, rms: float) -> None:
    """Head n attends n + 1 tokens back, whatever stands there, and copies it into the n-th sixth of the channels."""
    gain = math.sqrt(_POSITION_GAIN) * rms  # channel 0 is 1 / rms behind the norm
    half = len(angles)
    for head in range(_LOOK_BACK):
        query, key = torch.zeros_like(read_token), torch.zeros_like(read_token)
        turned = (head + 1) * angles[:_FAST]
        query[:_FAST, 0] = gain
        key[:_FAST, 0], key[half : half + _FAST, 0] = gain * turned.cos(), gain * turned.sin()
        rows = slice(head * 2 * half, (head + 1) * 2 * half)
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key
        attention.v_proj.weight[rows] = read_token
        attention.o_proj.weight[:, rows] = 0.4 * _read_back(read_token, head).T


def _find_names(attention: LlamaAttention, angles: Tensor, read_token: Tensor, generator: torch.Generator) -> None:
    """Heads that go from a name to the same name elsewhere: to the first token behind it, the second, the name itself.

    A name is two tokens, as in "red star". Queries hold the token and the one before it, keys what stands where the
    name should be, both in the slow rotary pairs. The last head compares one token only: "what shape is red?"
    """
    slow = (angles < _SLOW).nonzero().flatten()
    slow = torch.cat((slow, slow + len(angles)))
    token, back = _TOKEN_GAIN * read_token, [_read_back(read_token, n) for n in range(_LOOK_BACK)]
    pairs = [(back[0], back[1]), (back[1], back[2]), (token, back[0]), (back[0], None)]
    for head, (last, before) in enumerate(pairs):
        mix_last, mix_before = (_orthogonal(len(read_token), generator)[: len(slow)] for _ in range(2))
        gain = _CONTENT_GAIN if before is not None else _CONTENT_GAIN * math.sqrt(2)
        query, key = torch.zeros_like(read_token), torch.zeros_like(read_token)
        query[slow], key[slow] = gain * mix_last @ token, gain * mix_last @ last
        if before is not None:
            query[slow] += gain * mix_before @ back[0]
            key[slow] += gain * mix_before @ before
        rows = slice(head * len(read_token), (head + 1) * len(read_token))
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query, key


def _read_back(read_token: Tensor, number: int) -> Tensor:
    """[head_dim, hidden]: reads the sixth of the channels that holds what stands `number` + 1 tokens back."""
    head_dim, hidden = read_token.shape
    reader = torch.zeros_like(read_token)
    reader[:, hidden // 2 + number * head_dim : hidden // 2 + (number + 1) * head_dim] = torch.eye(head_dim)
    return reader


def _orthogonal(size: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.empty(size, size).normal_(generator=generator)).Q
