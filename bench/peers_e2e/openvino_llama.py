"""OpenVINO: the decoder converted from plain torch, its cache a state inside the compiled model.

That is the form of the models that OpenVINO GenAI runs. Its pipelines start from text, so what calls the model is ours.
The weights go in as float32 and are computed with in the subject's dtype (`INFERENCE_PRECISION_HINT`).
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as opset
from openvino._offline_transformations import apply_make_stateful_transformation
from torch import Tensor, nn
from torch.nn import functional as F

from bench.parts.subject import require_memory
from bench.peers_e2e import MIN_COSINE
from lynx_engine import get_num_threads
from lynx_engine.errors import LynxError
from lynx_engine.generate import search
from lynx_engine.model.adapter import Adapter
from lynx_engine.model.decoder import (
    LlamaAttention,
    LlamaForCausalLM,
    LlamaLayer,
    LlamaMLP,
    RMSNorm,
    rope_tables,
)

if TYPE_CHECKING:
    from bench.parts.subject import Subject
    from bench.peers_e2e import Run
    from lynx_engine.config import LlamaConfig
    from lynx_engine.generate import GenerationConfig

_STEPS_BEFORE_REWIND = 32
_COPIES = 4 + 4  # bytes a weight while the model is converted: float32, and what the plugin packs for itself
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class _Decoder(nn.Module):
    """The same arithmetic with SDPA and an explicit cache [B, heads, positions, D], which OpenVINO's fusions know."""

    cos: Tensor
    sin: Tensor

    def __init__(self, llm: LlamaForCausalLM, config: LlamaConfig) -> None:
        super().__init__()
        self.llm = llm
        positions = torch.arange(config.max_position_embeddings)
        # tables, not angles: a bfloat16 graph rounds those too, and behind 288 positions the logits had cosine 0.68
        cos_1SD, sin_1SD = rope_tables(positions[None], config.head_dim, config.rope_theta, torch.float32)
        self.register_buffer("cos", cos_1SD[0])
        self.register_buffer("sin", sin_1SD[0])

    def forward(self, embeds: Tensor, beam_idx: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, V] of the last position, then keys and values of every layer; row i continues beam_idx[i]."""
        past, x = cache[0].shape[2], embeds
        positions = torch.arange(past, past + x.shape[1])
        rope = self.cos[positions], self.sin[positions]
        mask = torch.arange(past + x.shape[1])[None, :] <= positions[:, None]
        present: list[Tensor] = []
        for layer in cast("list[LlamaLayer]", list(self.llm.model.layers)):
            held = [tensor.index_select(0, beam_idx) for tensor in cache[len(present) : len(present) + 2]]
            attended, kept = _attention(layer.self_attn, _rms_norm(layer.input_layernorm, x), rope, mask, held)
            x = x + attended
            x = x + _mlp(layer.mlp, _rms_norm(layer.post_attention_layernorm, x))
            if isinstance(layer.output_adapter, Adapter):
                x = _adapter(layer.output_adapter, x)
            present += kept
        return F.linear(_rms_norm(self.llm.model.norm, x[:, -1]), self.llm.lm_head.weight), *present


def _rms_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    return norm.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.eps))


def _apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def _mlp(mlp: LlamaMLP, x: Tensor) -> Tensor:
    gate, up = F.linear(x, mlp.gate_proj.weight), F.linear(x, mlp.up_proj.weight)
    return F.linear(F.silu(gate) * up, mlp.down_proj.weight)


def _attention(
    attn: LlamaAttention, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, held: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    projections = (attn.q_proj, attn.k_proj, attn.v_proj)
    q, k, v = (F.linear(x, p.weight).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for p in projections)
    q, k = _apply_rope(q, *rope), torch.cat((held[0], _apply_rope(k, *rope)), dim=2)
    v = torch.cat((held[1], v), dim=2)
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return F.linear(o.transpose(1, 2).flatten(-2), attn.o_proj.weight), [k, v]


def _adapter(adapter: Adapter, x: Tensor) -> Tensor:
    norm, down, up = adapter.adapter_norm_before, adapter.adapter_down, adapter.adapter_up
    return x + adapter.scaling * up(F.silu(down(norm(x))))


class _Session:
    """One prompt [1, S, H] being continued by the compiled model, as `lynx_engine.generate` asks of a session."""

    batch_size = 1

    def __init__(self, compiled: Any, embedding: Tensor, embeds: Tensor) -> None:
        self.request = compiled.create_infer_request()
        self.embedding = embedding
        self.embeds = embeds.float()

    def prefill(self) -> Tensor:
        self.request.reset_state()
        return self._infer(self.embeds, [0])

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        beams = range(len(tokens)) if parents is None else parents.tolist()
        return self._infer(F.embedding(tokens[:, None], self.embedding).float(), beams)

    def _infer(self, embeds: Tensor, beams: Any) -> Tensor:
        inputs = {"embeds": embeds.numpy(), "beam_idx": np.array(beams, dtype=np.int32)}
        return torch.from_numpy(self.request.infer(inputs)["logits"].copy())


class OpenVino:
    min_cosine = MIN_COSINE

    def __init__(self, compiled: Any, embedding: Tensor, config: LlamaConfig) -> None:
        self.compiled = compiled
        self.embedding = embedding
        self.config = config

    def _session(self, embeds: Tensor) -> _Session:
        return _Session(self.compiled, self.embedding, embeds)

    def prefill(self, embeds: Tensor) -> Run:
        return torch.inference_mode()(self._session(embeds).prefill)

    def decode(self, embeds: Tensor, token_ids: Tensor) -> Run:
        """The state cannot be wound back without copying it, so it grows by 32 positions, and one call in 32, which a
        median does not see, fills it anew."""
        session, calls, first = self._session(embeds), 0, torch.zeros(len(token_ids), dtype=torch.int64)

        @torch.inference_mode()
        def run() -> Tensor:
            nonlocal calls
            anew = calls % _STEPS_BEFORE_REWIND == 0
            calls += 1
            if anew:
                session.prefill()
            return session.step(token_ids[:, 0], first if anew else None)

        return run

    def answer(self, embeds: Tensor, generation: GenerationConfig) -> Run:
        """OpenVINO's decoder under our beam search."""
        special = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return torch.inference_mode()(
            lambda: torch.tensor(search(self._session(embeds), generation, **special).token_ids)
        )


def load(subject: Subject) -> OpenVino:
    """The decoder of `subject`, its weights copied to float32 for the conversion and dropped after it."""
    if subject.device != "cpu":
        raise LynxError(f"peer openvino runs on the cpu only, not on {subject.device}")
    llm, config = subject.model.LLM, subject.config.llm
    copies = _COPIES * sum(parameter.numel() for parameter in llm.parameters())
    require_memory(copies, "cpu", "peer openvino beside ours", "a part of the depth (as lynx_8b/8), or another peer")
    precision = _PRECISIONS[subject.dtype]
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "INFERENCE_NUM_THREADS": get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(_converted(subject), "CPU", settings)
    return OpenVino(compiled, llm.model.embed_tokens.weight.detach(), config)


def _converted(subject: Subject) -> Any:
    """The decoder as a stateful OpenVINO model: inputs `embeds` and `beam_idx`, output `logits`."""
    config = subject.config.llm
    decoder = _Decoder(copy.deepcopy(subject.model.LLM).float(), config).eval()
    cache = [torch.zeros(2, config.num_heads, 3, config.head_dim) for _ in range(2 * config.num_layers)]
    example = (torch.zeros(2, 4, config.hidden_size), torch.zeros(2, dtype=torch.int32), *cache)
    with torch.no_grad():
        model = ov.convert_model(decoder, example_input=example)
    names = [f"{kind}.{layer}" for layer in range(config.num_layers) for kind in ("key", "value")]
    for port, name in zip(model.inputs, ["embeds", "beam_idx", *(f"past.{name}" for name in names)], strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    for port, name in zip(model.outputs, ["logits", *(f"present.{name}" for name in names)], strict=True):
        port.get_tensor().set_names({name})
    shape = [-1, config.num_heads, -1, config.head_dim]
    shapes = {"embeds": [-1, -1, config.hidden_size], "beam_idx": [-1], **{f"past.{name}": shape for name in names}}
    model.reshape({name: ov.PartialShape(dims) for name, dims in shapes.items()})
    apply_make_stateful_transformation(model, {f"past.{name}": f"present.{name}" for name in names})
    _start_empty(model, config)
    return model


def _start_empty(model: Any, config: LlamaConfig) -> None:
    """After a reset every state is [batch of `embeds`, heads, 0, D]; the plugin wants that written into the graph."""
    batch = opset.gather(opset.shape_of(model.input("embeds")), opset.constant([0]), opset.constant(0))
    rest = opset.constant(np.array([config.num_heads, 0, config.head_dim], dtype=np.int64))
    empty = opset.broadcast(opset.constant(0.0, dtype=np.float32), opset.concat([batch, rest], 0))
    for node in model.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([empty.output(0)])
    model.validate_nodes_and_infer_types()
