"""Hugging Face transformers: its LlamaForCausalLM around our tensors, Lynx's adapters as hooks in plain torch.

This is how the authors' code runs the decoder (their own copy of the same class, with the adapters written into it).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from bench.parts.subject import require_memory
from bench.peers_e2e import MIN_COSINE
from lynx_engine.model.adapter import Adapter
from lynx_engine.model.linear import Linear

if TYPE_CHECKING:
    from bench.parts.subject import Subject
    from bench.peers_e2e import Run
    from lynx_engine.generate import GenerationConfig


class Transformers:
    """transformers as it comes: SDPA attention, its dynamic cache, its `generate`."""

    min_cosine = MIN_COSINE

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model

    def prefill(self, embeds: Tensor) -> Run:
        def run() -> Tensor:
            with torch.inference_mode():
                return self.model(inputs_embeds=embeds, use_cache=True, logits_to_keep=1).logits[:, -1]

        return run

    def decode(self, embeds: Tensor, token_ids: Tensor) -> Run:
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(token_ids.shape[0])

        def run() -> Tensor:
            with torch.inference_mode():
                logits = self.model(token_ids, past_key_values=cache, use_cache=True).logits[:, -1]
                cache.crop(-1)  # a view: the next step copies the whole cache to append, as every step of this class
            return logits

        return run

    def answer(self, embeds: Tensor, generation: GenerationConfig) -> Run:
        settings = {
            "max_new_tokens": generation.max_new_tokens,
            "min_new_tokens": generation.max_new_tokens,
            "num_beams": generation.num_beams,
            "length_penalty": generation.length_penalty,
            "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        }
        mask = torch.ones(embeds.shape[:2], dtype=torch.int64, device=embeds.device)

        def run() -> Tensor:
            with warnings.catch_warnings():  # that n-grams of the prompt do not count, which is as in ours
                warnings.simplefilter("ignore", UserWarning)
                return self.model.generate(inputs_embeds=embeds, attention_mask=mask, do_sample=False, **settings)

        return run


def load(subject: Subject) -> Transformers:
    """The decoder of `subject`: its adapters, norms and embeddings shared, the matrices as they were before packing."""
    llm = subject.config.llm
    matrices = sum(m.weight.nbytes for m in subject.model.LLM.modules() if isinstance(m, Linear) and m.packed)
    less = "a part of the depth (as lynx_8b/8), or another peer"
    require_memory(matrices, subject.device, "peer transformers beside ours", less)
    config = LlamaConfig(
        vocab_size=llm.vocab_size,
        hidden_size=llm.hidden_size,
        intermediate_size=llm.intermediate_size,
        num_hidden_layers=llm.num_layers,
        num_attention_heads=llm.num_heads,
        max_position_embeddings=llm.max_position_embeddings,
        rms_norm_eps=llm.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": llm.rope_theta},
        bos_token_id=llm.bos_token_id,
        eos_token_id=llm.eos_token_id,
        pad_token_id=llm.pad_token_id,
        attn_implementation="sdpa",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    state = subject.model.LLM.state_dict()
    model.load_state_dict({name: t for name, t in state.items() if ".output_adapter." not in name}, assign=True)
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(subject.device)  # its tables are in no state_dict
    for layer, ours in zip(model.model.layers, subject.model.LLM.model.layers, strict=True):
        if isinstance(ours.output_adapter, Adapter):
            layer.register_forward_hook(_adapter_hook(ours.output_adapter))
    return Transformers(model.eval())


def _adapter_hook(adapter: Adapter) -> Any:
    norm, down, up = adapter.adapter_norm_before, adapter.adapter_down, adapter.adapter_up

    def hook(layer: nn.Module, inputs: Any, x: Tensor) -> Tensor:
        return x + adapter.scaling * up(F.silu(down(norm(x))))

    return hook
