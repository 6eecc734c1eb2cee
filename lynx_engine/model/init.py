"""Initial values as the authors draw them (REFERENCE.md section 6.6)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .adapter import Adapter
from .decoder import LlamaForCausalLM, RMSNorm
from .lynx import LynxModel
from .resampler import Resampler
from .vision import VisionEncoder

_STD = 0.02


def init_parameters(model: LynxModel, seed: int = 0) -> None:
    """Fill every parameter of `model` in place; the same seed gives the same values on every machine.

    A quantised linear has no weight: its codes and scales are left to whoever made it.
    """
    generator = torch.Generator(device="cpu").manual_seed(seed)
    with torch.no_grad():
        _init_vision(model.vision_encoder, generator)
        _init_llm(model.LLM, generator)
        _init_bridge(model.bridge, generator)
        if model.absolute_frame_pos_embed is not None:
            _trunc_normal(model.absolute_frame_pos_embed, generator)


def _init_vision(encoder: VisionEncoder, generator: torch.Generator) -> None:
    _init_norms(encoder)
    _trunc_normal(encoder.cls_token, generator)
    _trunc_normal(encoder.pos_embed, generator)
    proj = encoder.patch_embed.proj
    _kaiming(proj.weight, generator)
    bound = 1 / math.sqrt(proj.weight[0].numel())
    assert proj.bias is not None
    _uniform(proj.bias, bound, generator)
    for depth, block in enumerate(encoder.blocks, start=1):
        for linear in (m for m in block.modules() if isinstance(m, nn.Linear)):
            if linear.weight is not None:
                _trunc_normal(linear.weight, generator)
            if linear.bias is not None:
                linear.bias.zero_()
        for last in (block.attn.proj, block.mlp.fc2):
            if last.weight is not None:
                last.weight.div_(math.sqrt(2 * depth))


def _init_llm(llm: LlamaForCausalLM, generator: torch.Generator) -> None:
    _init_norms(llm)
    for module in llm.modules():
        if isinstance(module, Adapter):
            module.scaling.fill_(1.0)
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            if module.weight is not None:
                _normal(module.weight, _STD, generator)
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()


def _init_bridge(bridge: Resampler, generator: torch.Generator) -> None:
    _init_norms(bridge)
    _normal(bridge.latents, 1.0, generator)
    for linear in (m for m in bridge.modules() if isinstance(m, nn.Linear)):
        if linear.weight is not None:
            _kaiming(linear.weight, generator)


def _init_norms(part: nn.Module) -> None:
    for module in part.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        elif isinstance(module, RMSNorm):
            module.weight.fill_(1.0)


def _normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def _uniform(parameter: Tensor, bound: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))


def _trunc_normal(parameter: Tensor, generator: torch.Generator) -> None:
    """Normal with std 0.02 cut at +-2, that is at 100 standard deviations: in practice never cut."""
    _normal(parameter, _STD, generator)


def _kaiming(parameter: Tensor, generator: torch.Generator) -> None:
    """torch's default for linears and convolutions: uniform in +-1/sqrt(fan_in)."""
    _uniform(parameter, 1 / math.sqrt(parameter[0].numel()), generator)
