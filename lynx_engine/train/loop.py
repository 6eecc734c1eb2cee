"""The training loop: AdamW over batches that are a function of their number, so that a run resumes exactly."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import LynxError
from .checkpoint import load_checkpoint, save_checkpoint
from .interrupt import Interrupt
from .log import LossLog
from .schedule import linear_schedule


@dataclass(frozen=True)
class FitConfig:
    """Table 5's optimiser: AdamW, linear warm-up from `start_lr` to `peak_lr`, linear decay to zero.

    max_grad_norm: gradients are scaled down to this l2 norm; None leaves them.
    checkpoint_every: steps between checkpoints; one is also written at the end and after the step in which Ctrl-C came.
    """

    steps: int
    peak_lr: float
    start_lr: float
    warmup: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    checkpoint_every: int = 500
    log_every: int = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.warmup < 1:
            raise LynxError(f"FitConfig: wanted steps >= 1 and warmup in [0, 1), got {self.steps} and {self.warmup}")


def fit(
    model: nn.Module,
    batch: Callable[[int], Any],
    loss: Callable[[Any], Tensor],
    config: FitConfig,
    folder: Path,
    *,
    name: str = "train",
    show_progress: bool = True,
) -> float:
    """Train the parameters of `model` that require gradients; returns the last logged mean loss.

    `batch(step)` makes the batch of a step, of nothing but its number: in a process of its own, some steps ahead.
    `loss(batch)` is a function of the batch, the parameters and torch's generator, whose state is kept. A checkpoint in
    `folder` is continued where it stopped; one of another configuration is a LynxError. `folder/name.jsonl` logs step,
    loss and learning rate.
    """
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        trained.values(), lr=config.peak_lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )
    path = folder / f"{name}.checkpoint.pt"
    folder.mkdir(parents=True, exist_ok=True)
    step = load_checkpoint(path, trained, optimizer, asdict(config)) if path.exists() else 0
    with ExitStack() as stack:
        log = stack.enter_context(LossLog(folder / f"{name}.jsonl", first_step=step))
        bar = stack.enter_context(_progress(show_progress))
        task = bar.add_task(name, total=config.steps, completed=step, loss=float("nan"))
        batches = iter(_ahead(batch, range(step, config.steps)))
        interrupt = stack.enter_context(Interrupt())
        while step < config.steps and not interrupt.requested:
            rate = linear_schedule(step, config.steps, config.peak_lr, config.start_lr, config.warmup)
            value = _step(optimizer, loss(next(batches)), rate, config.max_grad_norm)
            log.add(step, value, rate, flush=(step + 1) % config.log_every == 0 or step + 1 == config.steps)
            step += 1
            bar.update(task, completed=step, loss=log.mean)
            if step % config.checkpoint_every == 0 or step == config.steps or interrupt.requested:
                save_checkpoint(path, step, trained, optimizer, asdict(config))
    if step < config.steps:
        raise KeyboardInterrupt(f"stopped after step {step}; {path} continues")
    return log.mean


class _Batches(Dataset[Any]):
    def __init__(self, batch: Callable[[int], Any]) -> None:
        self._batch = batch

    def __getitem__(self, step: int) -> Any:
        return self._batch(step)


def _ahead(batch: Callable[[int], Any], steps: range) -> DataLoader[Any]:
    """Batches from a forked process: drawing pictures is Python, and in this one would wait for the same lock."""
    return DataLoader(
        _Batches(batch),
        batch_size=None,
        sampler=steps,
        num_workers=1,
        prefetch_factor=2,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # it draws a seed for its worker: not from the generator that a run resumes
        multiprocessing_context="fork",
    )


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C reaches the whole process group; what it means is for the training process to decide."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float, max_grad_norm: float | None) -> float:
    value = loss.item()
    if value != value:
        raise LynxError("the loss is NaN; the last checkpoint is from before")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = rate
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(group["params"], max_grad_norm)
    optimizer.step()
    return value


def _progress(visible: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TextColumn("loss {task.fields[loss]:.4f}"), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, disable=not visible)
