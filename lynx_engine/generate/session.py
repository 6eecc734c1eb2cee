"""What a search asks of a model, and the decoder that answers: one prefill, then cached steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..errors import LynxError
from .kv_cache import KVCache

if TYPE_CHECKING:
    from ..model import LynxModel


class Session(Protocol):
    """A batch of prompts being continued."""

    @property
    def batch_size(self) -> int:
        """Rows of `prefill`."""
        ...

    def prefill(self) -> Tensor:
        """Logits [B, V] at the last prompt position of each row. Called once, first."""
        ...

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        """Logits [R, V] after int64 `tokens` [R]; row i continues row `parents[i]` of the state before, None: row i."""
        ...


class DecoderSession:
    """Lynx's decoder over [vision tokens | text] embeddings [B, S, H].

    attention_mask [B, S], 0 at pads, None without pads. Positions are cumsum(mask) - 1, and 1 at pads: pads between
    the vision tokens and the text take no position, and a row answers as it would alone (REFERENCE.md section 5.6).
    """

    def __init__(
        self,
        model: LynxModel,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        num_vision_tokens: int = 0,
    ) -> None:
        rows, length, _ = inputs_embeds.shape
        if length == 0:
            raise LynxError("an empty prompt cannot be continued: wanted at least the BOS token")
        if attention_mask is not None and attention_mask.shape != (rows, length):
            raise LynxError(
                f"attention_mask must be [{rows}, {length}] like inputs_embeds, got {list(attention_mask.shape)}"
            )
        self.model = model
        self.num_vision_tokens = num_vision_tokens
        self._embeds = inputs_embeds
        self._mask = None if attention_mask is None or bool(attention_mask.all()) else attention_mask.long()
        self._cache = KVCache(model.config.llm.num_layers)

    @property
    def batch_size(self) -> int:
        return self._embeds.shape[0]

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        positions = None
        if self._mask is not None:
            positions = (self._mask.cumsum(1) - 1).masked_fill(self._mask == 0, 1)
        hidden = self.model.decode(self._embeds, self._mask, positions, self._cache, self.num_vision_tokens)
        self._cache.end_prompt()
        return self.model.logits(hidden[:, -1])

    @torch.inference_mode()
    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        if parents is not None:
            self._cache.reorder(parents.tolist())
        positions = None
        if self._mask is not None:
            mask = self._mask if parents is None else self._mask[parents]
            self._mask = torch.cat((mask, mask.new_ones(len(tokens), 1)), dim=1)
            positions = self._mask.sum(1, keepdim=True) - 1
        embeds = self.model.embed(tokens[:, None])
        hidden = self.model.decode(embeds, self._mask, positions, self._cache)
        return self.model.logits(hidden[:, -1])
