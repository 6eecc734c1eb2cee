"""The whole model: vision encoder -> resampler -> [vision tokens | text tokens] -> decoder with adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..config import LynxConfig
from ..errors import LynxError
from .decoder import Cache, LlamaForCausalLM
from .linear import pack_frozen, unpack_all
from .resampler import Resampler
from .vision import VisionEncoder

IGNORE_INDEX = -100


@dataclass(frozen=True)
class LynxOutput:
    """`logits` [B, L + T, V] over vision and text positions; `loss` where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


class LynxModel(nn.Module):
    """Lynx as one nn.Module; state_dict keys are the authors' (REFERENCE.md section 2) without `inv_freq` buffers.

    Built under `torch.device("meta")` it allocates nothing. Only the bridge, the adapters and the frame
    position embedding require gradients, as in the paper; `freeze` changes that.
    """

    def __init__(self, config: LynxConfig) -> None:
        super().__init__()
        self.config = config
        width = config.vision.hidden_size
        self.vision_encoder = VisionEncoder(config.vision)
        self.LLM = LlamaForCausalLM(config.llm, config.adapter_layers)
        self.bridge = Resampler(config.bridge, width, config.llm.hidden_size)
        frames = config.num_frames
        self.absolute_frame_pos_embed = None if frames is None else nn.Parameter(torch.zeros(1, frames, 1, width))
        self.freeze()

    def freeze(self, *, vision: bool = True, llm: bool = True) -> None:
        """Choose what trains: the bridge, adapters and frame positions always do."""
        for part, frozen in ((self.vision_encoder, vision), (self.LLM, llm)):
            if not frozen:
                unpack_all(part)
        self.vision_encoder.requires_grad_(not vision)
        for name, parameter in self.LLM.named_parameters():
            parameter.requires_grad_(not llm or ".output_adapter." in name)

    def pack(self) -> LynxModel:
        """Pack the frozen linears for the CPU kernels, one at a time, in place of the weights they had; see `Linear`.
        Quantised ones lie as the kernels want them; q, k, v and gate, up are laid together.

        Results stay the same, but for gate and up of SwiGLU, which are no longer rounded on the way. `state_dict` gives
        the weights as they were; `freeze` unpacks what is to train.
        """
        pack_frozen(self)
        return self

    def unpack(self) -> LynxModel:
        """All weights as [N, K] again."""
        unpack_all(self)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves and conversions: packed weights are unpacked for them, and packed again."""
        packed = self.LLM.lm_head.packed
        moved = super()._apply(fn, recurse)
        return moved.pack() if packed else moved

    @property
    def dtype(self) -> torch.dtype:
        return self.LLM.lm_head.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.LLM.lm_head.weight.device

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] normalised floats or [B, S, S, 3] uint8 -> vision tokens [B, num_latents, H]."""
        self._check_pixels("images", pixels, ())
        return self.bridge(self.vision_encoder(pixels))

    def encode_videos(self, pixels: Tensor) -> Tensor:
        """[B, F, 3, S, S] or [B, F, S, S, 3] uint8 -> [B, num_latents, H].

        Frames are encoded one by one, get their frame position, and are read by the resampler in one row.
        """
        return self.bridge(self._encode_frames(pixels))

    def encode_mixed(
        self, images: Tensor | None, videos: Tensor | None, *, release_compat: bool = False
    ) -> Tensor | None:
        """Vision tokens of a mixed batch, the rows of `videos` before those of `images` (REFERENCE.md section 9.6).

        `release_compat` keeps gradients from the frame position embedding, as the authors' training path does.
        """
        rows = []
        if videos is not None:
            media = self._encode_frames(videos)
            rows.append(self.bridge(media.detach() if release_compat else media))
        if images is not None:
            rows.append(self.encode_images(images))
        return torch.cat(rows) if rows else None

    def embed(self, input_ids: Tensor, vision: Tensor | None = None) -> Tensor:
        """[vision tokens | token embeddings]: [B, L + T, H]."""
        if not (input_ids.is_cpu or self._knows(input_ids)):
            raise self._unknown_ids(input_ids)
        try:
            text = self.LLM.model.embed_tokens(input_ids)
        except IndexError as error:  # on CPUs torch looks at every id itself
            raise self._unknown_ids(input_ids) from error
        if vision is None:
            return text
        if vision.shape[0] != text.shape[0]:
            raise LynxError(f"{vision.shape[0]} images or videos for {text.shape[0]} rows of text")
        return torch.cat((vision.to(text.dtype), text), dim=1)

    def decode(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Cache | None = None,
        num_vision_tokens: int = 0,
    ) -> Tensor:
        """Hidden states [B, S, H] after the final norm; with a cache, S new positions after those it holds.

        `attention_mask` [B, past + S] hides keys where 0; None hides nothing. `position_ids` [B, S].
        """
        prefix_lens = None
        if self.config.prefix_attention == "bidirectional" and num_vision_tokens:
            prefix_lens = torch.full(
                (inputs_embeds.shape[0],), num_vision_tokens, dtype=torch.int32, device=inputs_embeds.device
            )
        return self.LLM.model(inputs_embeds, attention_mask, position_ids, prefix_lens, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.LLM.lm_head(hidden)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        images: Tensor | None = None,
        videos: Tensor | None = None,
        vision: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> LynxOutput:
        """Logits of [vision tokens | text], and the next-token loss where `labels` are given.

        input_ids [B, T]; attention_mask [B, T] over the text, 0 at pads; vision: tokens encoded before, instead of
        `images` and `videos`; position_ids [B, L + T] default to 0, 1, 2, ... counting pads (REFERENCE.md section 10);
        labels [B, T] or [B, L + T] with -100 at positions that do not count; the shift by one happens here.
        """
        if vision is None:
            vision = self.encode_mixed(images, videos)
        logits = self.logits(self._hidden(input_ids, attention_mask, vision, position_ids))
        if labels is None:
            return LynxOutput(logits)
        loss = ops.cross_entropy(
            logits.flatten(0, 1),
            _next_labels(labels, logits.shape[1]).flatten(),
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            reduction=reduction,
        )
        if reduction == "none":
            loss = loss.view(logits.shape[:2])[:, :-1].flatten()
        return LynxOutput(logits, loss)

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        labels: Tensor,
        images: Tensor | None = None,
        videos: Tensor | None = None,
        vision: Tensor | None = None,
        position_ids: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The mean loss that `forward` gives; logits of positions that do not count are never computed."""
        if vision is None:
            vision = self.encode_mixed(images, videos)
        hidden = self._hidden(input_ids, attention_mask, vision, position_ids)
        return ops.fused_linear_cross_entropy(
            hidden.flatten(0, 1),
            self.LLM.lm_head.weight,
            _next_labels(labels, hidden.shape[1]).flatten(),
            out_features=self.config.llm.vocab_size,
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
        )

    def _hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        vision: Tensor | None,
        position_ids: Tensor | None,
    ) -> Tensor:
        """Hidden states [B, L + T, H] of [vision tokens | text]; the mask is the text's."""
        num_vision_tokens = 0 if vision is None else vision.shape[1]
        if attention_mask is not None:
            attention_mask = F.pad(attention_mask, (num_vision_tokens, 0), value=1)
        embeds = self.embed(input_ids, vision)
        return self.decode(embeds, attention_mask, position_ids, num_vision_tokens=num_vision_tokens)

    def _knows(self, input_ids: Tensor) -> bool:
        return bool(((input_ids >= 0) & (input_ids < self.config.llm.vocab_size)).all())

    def _unknown_ids(self, input_ids: Tensor) -> LynxError:
        got = f"{int(input_ids.min())}..{int(input_ids.max())}"
        return LynxError(f"input_ids must be in [0, {self.config.llm.vocab_size}), got {got}")

    def _encode_frames(self, pixels: Tensor) -> Tensor:
        """[B, F, ...] pixels to [B, F * N, Dv] vision tokens with frame positions."""
        if self.absolute_frame_pos_embed is None:
            raise LynxError("this model takes images only: its configuration has num_frames = None")
        num_frames = self.absolute_frame_pos_embed.shape[1]
        self._check_pixels("videos", pixels, (num_frames,))
        media = self.vision_encoder(pixels.flatten(0, 1)).unflatten(0, (-1, num_frames))
        return (media + self.absolute_frame_pos_embed).flatten(1, 2)

    def _check_pixels(self, name: str, pixels: Tensor, lead: tuple[int, ...]) -> None:
        side = self.config.vision.image_size
        frame = (side, side, 3) if pixels.dtype == torch.uint8 else (3, side, side)
        wanted = (*lead, *frame)
        if tuple(pixels.shape[1:]) != wanted:
            raise LynxError(
                f"{name} must be {pixels.dtype} [B, {', '.join(map(str, wanted))}], got {list(pixels.shape)}"
            )


def _next_labels(labels: Tensor, length: int) -> Tensor:
    """labels [B, T] of the last T of `length` positions -> [B, length]: of each position, the token that follows it."""
    return F.pad(labels[:, 1:], (length - labels.shape[1], 1), value=IGNORE_INDEX)
