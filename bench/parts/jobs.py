"""The parts that bench.e2e measures. A new part is one function that yields its sizes, and one line in `PARTS`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import flops
from bench.flops import Work
from bench.parts.subject import Subject
from bench.peers_e2e import PeerModel, Run
from lynx_engine.generate import DecoderSession, GenerationConfig, KVCache, search
from lynx_engine.media import preprocess
from lynx_engine.model import LynxModel

IMAGE_BATCHES = (1, 8)
PREFILL_POSITIONS = (72, 288, 512)
DECODE_BATCHES, DECODE_PAST = (1, 8, 32), 128
QUESTION_POSITIONS = 72  # 32 vision tokens and a question of 40, Lynx's longest
NUM_BEAMS, ANSWER_TOKENS = 5, 64
TRAIN_BATCH, TRAIN_TEXT = 4, 40


@dataclass(frozen=True)
class Job:
    """One size of a part. run: ours, the same in every call; twin: a peer's same work, None where it has none.

    units: how many of `unit` a call makes. A `training` step is judged by FLOPs (model FLOPs utilisation) even where
    memory is the lower ceiling.
    """

    case: str
    work: Work
    units: int
    unit: str
    run: Run
    twin: Callable[[PeerModel], Run | None] = lambda peer: None
    training: bool = False
    min_runs: int = 7


Part = Callable[[Subject], Iterator[Job]]


def vision(subject: Subject) -> Iterator[Job]:
    """The ViT on uint8 images."""
    for batch in IMAGE_BATCHES:
        run = functools.partial(subject.model.vision_encoder, subject.pixels(batch))
        work = flops.vision(subject.config, batch, subject.stored)
        yield Job(f"B={batch}", work, batch, "images", _inference(run))


def resampler(subject: Subject) -> Iterator[Job]:
    """The bridge on the ViT's tokens."""
    with torch.inference_mode():
        media = subject.model.vision_encoder(subject.pixels(1))
    for batch in IMAGE_BATCHES:
        run = functools.partial(subject.model.bridge, media.repeat(batch, 1, 1))
        work = flops.resampler(subject.config, batch, subject.stored)
        yield Job(f"B={batch}", work, batch, "images", _inference(run))


def prefill(subject: Subject) -> Iterator[Job]:
    """The decoder on one row of vision tokens and text, logits of the last position."""
    for positions in PREFILL_POSITIONS:
        yield _prefill(subject, positions)


def _prefill(subject: Subject, positions: int) -> Job:
    embeds = subject.embeddings(positions)
    return Job(
        f"S={positions}",
        flops.prefill(subject.config, 1, positions, subject.stored),
        positions,
        "tokens",
        _inference(lambda: _session(subject, embeds).prefill()),
        lambda peer: peer.prefill(embeds),
    )


def decode(subject: Subject) -> Iterator[Job]:
    """One step of every row of a batch, behind the same number of cached positions in every call."""
    for batch in DECODE_BATCHES:
        yield _decode(subject, batch)


def _decode(subject: Subject, batch: int) -> Job:
    embeds, token_ids = subject.embeddings(DECODE_PAST), subject.token_ids(batch, 1)
    return Job(
        f"B={batch} KV={DECODE_PAST}",
        flops.decode(subject.config, batch, DECODE_PAST, subject.stored),
        batch,
        "tokens",
        _decode_step(subject.model, embeds, token_ids),
        lambda peer: peer.decode(embeds, token_ids),
    )


def first_token(subject: Subject) -> Iterator[Job]:
    """From a decoded picture and a tokenized question to the first token: resize, ViT, resampler, prefill, argmax."""
    config, picture = subject.config, subject.picture()
    token_ids = subject.token_ids(1, QUESTION_POSITIONS - config.bridge.num_latents)

    def run() -> Tensor:
        vit, model = config.vision, subject.model
        pixels = preprocess(picture, vit.image_size, vit.image_mean, vit.image_std)[None].to(subject.device)
        embeds = model.embed(token_ids, model.encode_images(pixels))
        return _session(subject, embeds).prefill().argmax(-1).cpu()

    work = flops.vision(config, 1, subject.stored) + flops.resampler(config, 1, subject.stored)
    work += flops.prefill(config, 1, QUESTION_POSITIONS, subject.stored)
    yield Job(f"S={QUESTION_POSITIONS}", work, 1, "images", _inference(run))


def answer(subject: Subject) -> Iterator[Job]:
    """A beam search behind one encoded picture and question; EOS is forbidden, so that every answer is as long."""
    llm, embeds = subject.config.llm, subject.embeddings(QUESTION_POSITIONS)
    generation = GenerationConfig.preset("open-vqa").replace(
        num_beams=NUM_BEAMS, max_new_tokens=ANSWER_TOKENS, min_length=ANSWER_TOKENS + 1
    )
    special = {name: getattr(llm, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def run() -> Tensor:
        return torch.tensor(search(_session(subject, embeds), generation, **special).token_ids)

    yield Job(
        f"beams={NUM_BEAMS} S={QUESTION_POSITIONS} new={ANSWER_TOKENS}",
        flops.answer(subject.config, NUM_BEAMS, QUESTION_POSITIONS, ANSWER_TOKENS, subject.stored),
        ANSWER_TOKENS,
        "tokens",
        _inference(run),
        lambda peer: peer.answer(embeds, generation),
        min_runs=3,
    )


def train(subject: Subject) -> Iterator[Job]:
    """Forward, backward, clipping and AdamW of what Lynx trains: bridge and adapters, ViT and LLM frozen.

    The learning rate is 0: the optimizer does all its work, and the next part finds the weights as they were.
    """
    model = subject.model
    pixels, token_ids = subject.pixels(TRAIN_BATCH), subject.token_ids(TRAIN_BATCH, TRAIN_TEXT)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(token_ids, images=pixels, labels=token_ids)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return torch.stack((loss.detach(), norm))

    work = flops.train_step(subject.config, TRAIN_BATCH, TRAIN_TEXT, subject.stored)
    yield Job(f"B={TRAIN_BATCH} T={TRAIN_TEXT}", work, TRAIN_BATCH, "samples", run, training=True)
    optimizer.zero_grad(set_to_none=True)


PARTS: dict[str, Part] = {
    "vision": vision,
    "resampler": resampler,
    "prefill": prefill,
    "decode": decode,
    "first_token": first_token,
    "answer": answer,
    "train": train,
}


def _inference(call: Run) -> Run:
    return torch.inference_mode()(call)


def _session(subject: Subject, embeds: Tensor) -> DecoderSession:
    return DecoderSession(subject.model, embeds, None, subject.config.bridge.num_latents)


def _decode_step(model: LynxModel, embeds: Tensor, token_ids: Tensor) -> Run:
    """Logits [B, V] of one step; the cache is wound back before each, so that every step reads as many positions."""
    cache = KVCache(model.config.llm.num_layers)
    with torch.inference_mode():
        model.decode(embeds, cache=cache, num_vision_tokens=model.config.bridge.num_latents)
        cache.end_prompt()
        cache.reorder([0] * token_ids.shape[0])
    past = cache.length

    @torch.inference_mode()
    def run() -> Tensor:
        cache.length = past
        return model.logits(model.decode(model.embed(token_ids), cache=cache)[:, -1])

    return run
