"""Answer a file of questions, batch by batch (REFERENCE.md section 9)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..lynx import Lynx
from ..media import Vision, load_vision
from ..text import render
from .config import EvalConfig
from .items import Item, read_items
from .results import ResultFile


def predict(
    lynx: Lynx,
    file: str | Path,
    out: str | Path,
    config: EvalConfig,
    *,
    image_root: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write {"index", "text_output"} lines for every item of `file` to `out`; returns their number.

    Pictures with relative paths lie under `image_root`, by default the folder of `file`; in release_compat they are
    relative to the current directory. A run that was killed continues behind its last whole batch.
    """
    file, out = Path(file), Path(out)
    items = read_items(file)
    root = Path(image_root) if image_root else Path() if config.release_compat else file.parent
    run = {"file": hashlib.sha256(file.read_bytes()).hexdigest(), "config": asdict(config)}
    with ResultFile(out, run) as results:
        first = results.done - results.done % config.batch_size
        for start in range(first, len(items), config.batch_size):
            batch = items[start : start + config.batch_size]
            texts = _answer(lynx, batch, config, root, start)
            answers = [
                {"index": item.index, "text_output": text.strip()} for item, text in zip(batch, texts, strict=True)
            ]
            results.append(answers[results.done - start :])
            progress(results.done, len(items))
        results.finish()
    return len(items)


def _answer(lynx: Lynx, batch: list[Item], config: EvalConfig, root: Path, start: int) -> list[str]:
    """Texts of one batch; items without a picture cannot stand beside others and are answered on their own."""
    draws = np.random.RandomState((config.generation.seed or 0) + start)
    texts: dict[int, str] = {}
    for pictured in (True, False):
        rows = [row for row, item in enumerate(batch) if (config.vision_key in item.fields) == pictured]
        if not rows:
            continue
        items = [batch[row] for row in rows]
        generation = lynx.generate(
            vision=lynx.encode_rows([_vision(item, config, root, draws) for item in items]) if pictured else None,
            prompts=[
                render(config.prompt, item.fields, config.lower_text, release_compat=config.release_compat)
                for item in items
            ],
            config=config.generation,
            padding_side=config.padding_side,
            max_input_tokens=config.max_input_tokens,
        )
        texts |= dict(zip(rows, generation.texts, strict=True))
    return [texts[row] for row in range(len(batch))]


def _vision(item: Item, config: EvalConfig, root: Path, draws: np.random.RandomState) -> Vision:
    vision = load_vision(
        item.fields[config.vision_key],
        num_frames=config.num_frames,
        root=root,
        release_compat=config.release_compat,
        rng=draws,
        name=f"{item.where}: {config.vision_key}",
    )
    # one frame is an image, without a frame position (REFERENCE.md section 9.4)
    return vision[0] if isinstance(vision, list) and len(vision) == 1 else vision
