"""Makes small releases of random numbers in the authors' three-file layout, with what loading them must give."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import save_file
from torch import Tensor

from lynx_engine.config import BridgeConfig, LlamaConfig, LynxConfig, VisionConfig
from lynx_engine.model import LynxModel

Tensors = dict[str, Tensor]
WORDS = "the quick brown fox jumps over a lazy dog while user: what colour is the mug? bot: it is red, i think"
TINY = LynxConfig(
    vision=VisionConfig(image_size=28, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=139),
    bridge=BridgeConfig(num_layers=2, num_latents=3),
    llm=LlamaConfig(301, 48, 3, 2, 80, pad_token_id=300),
    adapter_freq=2,
    num_frames=3,
    name="finetune_lynx",
)


@dataclass
class TinyRelease:
    """Paths of the three files; `tensors` is the state that loading them must give."""

    vision: Path
    llm: Path
    checkpoint: Path
    tensors: Tensors
    settings: dict[str, Any] = field(default_factory=lambda: {"vit_num_heads": TINY.vision.num_heads, "image_res": 28})

    @property
    def files(self) -> dict[str, Any]:
        """Keyword arguments of `load_release` and `convert`."""
        return {"vision": self.vision, "llm": self.llm, "checkpoint": self.checkpoint, "config": self.settings}


def make_release(
    folder: Path,
    tokenizer_model: bytes,
    config: LynxConfig = TINY,
    *,
    layout: str = "pytorch_model, sharded",
    pad_token: str | None = None,
    wrapped: bool = True,
    prefix: str = "model.",
) -> TinyRelease:
    """Write a release of `config`; frozen tensors are stored in float16, trained ones in float32.

    `layout` names the LLaMA files: "pytorch_model" or "model" (safetensors), "sharded" or not. `pad_token`: one that
    the tokenizer defines, so that no row is added and `config.llm.vocab_size` is the stored one.
    """
    truth = random_state(config)
    release = TinyRelease(folder / "eva_vit_g.pth", folder / "vicuna-7b", folder / "finetune_lynx.pt", truth)
    release.llm.mkdir(parents=True)
    torch.save(eva_tensors(truth), release.vision)
    llm = {name.removeprefix("LLM."): t.half() for name, t in truth.items() if is_llama(name)}
    if pad_token is None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            llm[name] = llm[name][:-1].clone()
            truth["LLM." + name][-1] = llm[name].float().mean(dim=0)
    write_llama(release.llm, llm, layout)
    write_llama_config(release.llm, config, llm["lm_head.weight"].shape[0])
    (release.llm / "tokenizer.model").write_bytes(tokenizer_model)
    special = {} if pad_token is None else {"pad_token": pad_token}
    (release.llm / "special_tokens_map.json").write_text(json.dumps(special))
    learnt = {prefix + name: t for name, t in truth.items() if not is_frozen(name)}
    torch.save({"model": learnt, "epoch": 3} if wrapped else learnt, release.checkpoint)
    return release


def random_state(config: LynxConfig, seed: int = 7) -> Tensors:
    """Random numbers for every tensor of the model; those of frozen parts are exact in float16."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LynxModel(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: t.half().float() if is_frozen(name) else t for name, t in state.items()}


def is_llama(name: str) -> bool:
    return name.startswith("LLM.") and ".output_adapter." not in name


def is_frozen(name: str) -> bool:
    return name.startswith("vision_encoder.") or is_llama(name)


def eva_tensors(truth: Tensors) -> Tensors:
    """EVA's flat float16 dict: fused qkv, one block more than the model uses, final norm, head and mask token."""
    plain = {name.removeprefix("vision_encoder."): t.half() for name, t in truth.items() if "vision_encoder." in name}
    stored: Tensors = {}
    for name, tensor in plain.items():
        stem, _, last = name.rpartition("attn.")
        if last == "q_proj.weight":
            parts = [plain[f"{stem}attn.{part}_proj.weight"] for part in "qkv"]
            stored[f"{stem}attn.qkv.weight"] = torch.cat(parts)
        elif last in ("q_proj.bias", "v_proj.bias"):
            stored[f"{stem}attn.{last[0]}_bias"] = tensor
        elif last not in ("k_proj.weight", "v_proj.weight"):
            stored[name] = tensor
    depth = 1 + max(int(name.split(".")[1]) for name in stored if name.startswith("blocks."))
    extra = {name.replace("blocks.0.", f"blocks.{depth}."): t + 1 for name, t in stored.items() if "blocks.0." in name}
    width = stored["cls_token"].shape[-1]
    rest = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width), "head.weight": torch.ones(5, width)}
    return {**stored, **extra, **rest, "mask_token": torch.zeros(1, 1, width)}


def write_llama(folder: Path, tensors: Tensors, layout: str) -> None:
    """Write the LLaMA tensors as one file, or as two with an index."""
    stem, _, sharded = layout.partition(", ")
    suffix = "bin" if stem == "pytorch_model" else "safetensors"
    names = list(tensors)
    groups = [names[: len(names) // 2], names[len(names) // 2 :]] if sharded else [names]
    weight_map: dict[str, str] = {}
    for i, group in enumerate(groups, start=1):
        file = f"{stem}-{i:05d}-of-{len(groups):05d}.{suffix}" if sharded else f"{stem}.{suffix}"
        content = {name: tensors[name].contiguous() for name in group}
        weight_map |= dict.fromkeys(group, file)
        if suffix == "bin":
            frequencies = {f"model.layers.{i - 1}.self_attn.rotary_emb.inv_freq": torch.ones(4)}
            torch.save(content | frequencies, folder / file)
        else:
            save_file(content, folder / file)
    if sharded:
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_llama_config(folder: Path, config: LynxConfig, vocab_size: int, **changes: Any) -> None:
    llm = config.llm
    values = {
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
        "num_attention_heads": llm.num_heads,
        "num_hidden_layers": llm.num_layers,
        "rms_norm_eps": llm.rms_norm_eps,
        "vocab_size": vocab_size,
        "bos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(values | changes))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": llm.bos_token_id}))


def change_pickle(path: Path, changes: Mapping[str, Tensor | None]) -> None:
    """Replace tensors in a file of torch.save; None takes one away."""
    content = torch.load(path, weights_only=True)
    tensors = content.get("model", content)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    torch.save(content, path)


def train_tokenizer(vocab_size: int = 300) -> bytes:
    """A LLaMA-like sentencepiece model: byte fallback, identity normaliser."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 4),
        model_writer=out,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    return out.getvalue()
