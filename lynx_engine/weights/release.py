"""The authors' three files as one model (REFERENCE.md section 6): EVA ViT, LLaMA folder, trained checkpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import LlamaConfig, LynxConfig, VisionConfig
from ..errors import LynxError
from ..model import LynxModel
from . import eva, trained
from .files import Source, TensorFile
from .fit import Plan, is_buffer, load_tensors_into, meta_model, misfits, raise_misfits
from .llama import LlamaFolder
from .settings import Settings, read_settings

_LYNX_KEYS = ("prefix_attention", "prompt", "lower_text", "max_input_tokens")


@dataclass(frozen=True)
class LoadReport:
    """What loading decided beyond copying numbers.

    ignored: stored tensors for which the model has no place, as "file: stored name".
    initialised: trained tensors that no file holds; they keep their initial values.
    overridden: frozen tensors that the checkpoint replaces.
    notes: choices in words. unknown_settings: configuration keys that nothing reads.
    """

    ignored: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unknown_settings: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The report for people, one finding a line."""
        lists = {
            "ignored, the model has no such tensor": self.ignored,
            "in no file, keeps its initial value": self.initialised,
            "replaced by the checkpoint": self.overridden,
            "setting that nothing reads": self.unknown_settings,
        }
        return [*self.notes, *(f"{what}: {name}" for what, names in lists.items() for name in names)]


@dataclass(frozen=True)
class Release:
    """A release whose names and shapes fit `config`; the numbers are still in the files."""

    config: LynxConfig
    sources: Mapping[str, Source]
    tokenizer_folder: Path
    settings: Settings
    report: LoadReport

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name, in the order in which `tensors` yields them."""
        return {name: self.sources[name].shape for names in self._by_file() for name in names}

    def tensors(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor in `dtype`), file by file: one file is open and one tensor in memory at a time."""
        for names in self._by_file():
            for name in names:
                yield name, self.sources[name].read().float().to(dtype).contiguous()
            file = self.sources[names[0]].file
            if file is not None:
                file.close()

    def model(self, dtype: torch.dtype = torch.float32) -> LynxModel:
        """The model, the only owner of its tensors."""
        return load_tensors_into(meta_model(self.config), dict(self.tensors(dtype)), dtype=None)

    def _by_file(self) -> list[list[str]]:
        groups: dict[TensorFile | None, list[str]] = {}
        for name, source in self.sources.items():
            groups.setdefault(source.file, []).append(name)
        return list(groups.values())


def load_release(
    vision: str | Path,
    llm: str | Path,
    checkpoint: str | Path | None,
    *,
    image_size: int | None = None,
    config: str | Path | Mapping[str, Any] | Settings | None = None,
    overrides: Sequence[str] = (),
    release_compat: bool = False,
) -> Release:
    """Read the headers of the three files, settle the configuration, and check that every tensor fits it.

    Structure comes from `config` (the authors' YAML or JSON) and `overrides` ("vit_num_heads=4"), then from the
    weights, then from Lynx-8B. `image_size` goes before `image_res`. `checkpoint` None: bridge and adapters start from
    their initial values. `release_compat` strips name prefixes as the authors do (by characters).
    Raises LynxError for a missing or damaged file, and one LynxError for all tensors that do not fit.
    """
    settings = read_settings(config, [*overrides, *([] if image_size is None else [f"image_res={image_size}"])])
    if settings.get("bridge", "resampler") != "resampler":
        raise LynxError(f"{settings.where}: bridge: only 'resampler' is supported, got {settings.get('bridge')!r}")
    vision_file, llama = TensorFile(Path(vision)), LlamaFolder.open(llm)
    stored = None if checkpoint is None else TensorFile(Path(checkpoint), wrapper="model")
    learnt = {} if stored is None else trained.trained_sources(stored, release_compat)
    lynx = _configure(settings, eva.vision_config(vision_file, settings), llama.config, learnt)
    lynx = lynx.replace(name="lynx" if stored is None else stored.path.stem)
    if settings.get("add_frame_pos") is False and lynx.num_frames is not None:
        learnt[trained.FRAMES] = _zeros((1, lynx.num_frames, 1, lynx.vision.hidden_size))
    frozen = eva.vision_sources(vision_file, lynx.vision) | llama.sources()
    sources, report = _assemble(Plan.of(lynx), frozen, learnt, needs_trained=stored is not None)
    notes = (*eva.notes(vision_file, lynx.vision), *llama.notes())
    report = dataclasses.replace(report, notes=notes, unknown_settings=settings.unknown)
    return Release(lynx, sources, llama.path, settings, report)


def _configure(settings: Settings, vision: VisionConfig, llm: LlamaConfig, learnt: Mapping[str, Source]) -> LynxConfig:
    return LynxConfig(
        vision=vision,
        bridge=trained.bridge_config(learnt, settings),
        llm=llm,
        adapter_freq=trained.adapter_freq(learnt, settings, llm.num_layers),
        num_frames=trained.num_frames(learnt, settings),
        **{key: settings.get(key) for key in _LYNX_KEYS if key in settings},
    )


def _assemble(
    plan: Plan, frozen: Mapping[str, Source], learnt: Mapping[str, Source], *, needs_trained: bool
) -> tuple[dict[str, Source], LoadReport]:
    """Sources for every name of the plan: the checkpoint before the frozen files, initial values for the rest."""
    given = {**frozen, **learnt}
    initialised = [name for name in plan.shapes if name in plan.trained and name not in given]
    given |= {name: _initial(name, plan.shapes[name]) for name in initialised}
    origins = {name: source.origin for name, source in given.items()}
    lines = misfits(plan.shapes, {name: source.shape for name, source in given.items()}, origins)
    if needs_trained:
        lines += _absent_parts(plan, initialised)
    raise_misfits("the release does not fit its configuration", lines)
    ignored = {origin: None for name, origin in origins.items() if name not in plan.shapes and not is_buffer(name)}
    report = LoadReport(
        ignored=tuple(ignored),
        initialised=tuple(initialised),
        overridden=tuple(name for name in learnt if name in plan.shapes and name not in plan.trained),
    )
    return {name: given[name] for name in plan.shapes}, report


def _absent_parts(plan: Plan, initialised: Sequence[str]) -> list[str]:
    """Resampler layers and adapters of which the checkpoint holds nothing: a wrong depth or adapter_freq."""
    pattern = re.compile(r"bridge\.layers\.\d+\.|LLM\.model\.layers\.\d+\.output_adapter\.")

    def parts(names: Sequence[str]) -> dict[str, int]:
        found = [match[0] for name in names if (match := pattern.match(name))]
        return {part: found.count(part) for part in found}

    whole = parts(list(plan.shapes))
    return [f"{part}* is missing altogether" for part, count in parts(initialised).items() if count == whole[part]]


def _initial(name: str, shape: tuple[int, ...]) -> Source:
    return Source(shape, lambda: trained.initial_value(name, shape))


def _zeros(shape: tuple[int, ...]) -> Source:
    return Source(shape, lambda: torch.zeros(shape), origin="add_frame_pos: false")
