"""The recorded model cases T1-T4 as test inputs: configuration, tensors, activations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from lynx_engine import Lynx
from lynx_engine.config import BridgeConfig, LlamaConfig, LynxConfig, VisionConfig
from lynx_engine.model import LynxModel


@dataclass(frozen=True)
class Case:
    """One recorded model of the authors' code."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> LynxConfig:
        return config_from_manifest(self.manifest["config"])

    def weights(self) -> dict[str, Tensor]:
        """The authors' state dict, upcast (stored bf16 values are exact)."""
        return {k: v.float() for k, v in self.tensors("weights").items()}

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def json(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())


@cache
def case(folder: Path) -> Case:
    return Case(folder, json.loads((folder / "manifest.json").read_text()))


def config_from_manifest(values: dict[str, Any]) -> LynxConfig:
    """A manifest's `config` (the authors' keys) as a LynxConfig."""
    vit, llm, lynx = values["vit"], values["llm"], values["lynx"]
    return LynxConfig(
        vision=VisionConfig(
            image_size=lynx["image_res"],
            patch_size=vit["patch"],
            hidden_size=vit["embed_dim"],
            num_layers=vit["depth"],
            num_heads=vit["num_heads"],
            intermediate_size=vit["mlp_hidden"],
            layer_norm_eps=vit["layernorm_eps"],
        ),
        bridge=BridgeConfig(num_layers=lynx["bridge_depth"], num_latents=lynx["num_bridge_tokens"]),
        llm=LlamaConfig(
            vocab_size=values["vocab_total"],
            hidden_size=llm["hidden_size"],
            num_layers=llm["num_hidden_layers"],
            num_heads=llm["num_attention_heads"],
            intermediate_size=llm["intermediate_size"],
            rms_norm_eps=llm["rms_norm_eps"],
            max_position_embeddings=llm["max_position_embeddings"],
            pad_token_id=values["pad_token_id"],
        ),
        adapter_freq=lynx["adapter_freq"] if lynx["use_adapter"] else None,
        num_frames=lynx["data"]["num_frames"] if lynx["video_encoding"] else None,
        name="fixture",
    )


def build_model(recorded: Case, *, packed: bool = False) -> LynxModel:
    """The recorded model, ready to run: from its weights, or for T4 from the authors' three files."""
    model = _build(recorded)
    model.freeze()
    return model.pack() if packed else model.unpack()


def _build(recorded: Case) -> LynxModel:
    if not (recorded.folder / "weights.safetensors").exists():
        return Lynx.from_release(
            vision=recorded.folder / "data/eva_vit_g.pth",
            llm=recorded.folder / "data/vicuna-7b",
            checkpoint=recorded.folder / "data/finetune_lynx.pt",
            config=json.loads((recorded.folder / "lynx_config.json").read_text()),
            overrides=[f"vit_num_heads={recorded.manifest['config']['vit']['num_heads']}"],
        ).model
    with torch.device("meta"):
        model = LynxModel(recorded.config)
    weights = {name: tensor for name, tensor in recorded.weights().items() if not name.endswith("inv_freq")}
    model.load_state_dict(weights, assign=True)
    return model
