"""The training loop: the paper's schedule, and a run that is interrupted and continued equals one that was not."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from torch import nn

from lynx_engine import LynxError
from lynx_engine.train import FitConfig, fit, linear_schedule

CONFIG = FitConfig(steps=20, peak_lr=0.1, start_lr=0.01, checkpoint_every=5, log_every=4)
TARGET = torch.tensor([[1.0, -2.0, 0.5]])


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))


def batch(step: int) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(step))


def squared_error(net: nn.Module):
    return lambda x: (net(x) - x @ TARGET.T).square().mean()


def test_schedule_is_table_5():
    rates = [linear_schedule(step, 100_000, 1e-4, 1e-5) for step in (0, 2_500, 5_000, 52_500, 99_999)]
    assert rates == pytest.approx([1e-5, 5.5e-5, 1e-4, 5e-5, 1e-4 / 95_000])


def test_interrupted_run_equals_whole_run(tmp_path):
    whole, broken = model(), model()
    torch.manual_seed(7)
    fit(whole, batch, squared_error(whole), CONFIG, tmp_path / "whole", show_progress=False)

    losses = iter(range(20))

    def interrupted(x: torch.Tensor) -> torch.Tensor:
        if next(losses) == 13:
            os.kill(os.getpid(), signal.SIGINT)
        return squared_error(broken)(x)

    torch.manual_seed(7)
    with pytest.raises(KeyboardInterrupt):
        fit(broken, batch, interrupted, CONFIG, tmp_path / "broken", show_progress=False)
    torch.manual_seed(99)
    resumed = model()
    fit(resumed, batch, squared_error(resumed), CONFIG, tmp_path / "broken", show_progress=False)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken/train.jsonl").read_text().splitlines()]
    assert steps == [3, 7, 11, 15, 19]


def test_training_learns(tmp_path):
    net = nn.Linear(3, 1)
    config = FitConfig(steps=200, peak_lr=0.1, start_lr=0.01)
    assert fit(net, batch, squared_error(net), config, tmp_path, show_progress=False) < 1e-3


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    net = model()
    fit(net, batch, squared_error(net), CONFIG, tmp_path, show_progress=False)
    other = FitConfig(steps=30, peak_lr=0.1, start_lr=0.01, checkpoint_every=5, log_every=4)
    with pytest.raises(LynxError, match=r"other settings \(steps\)"):
        fit(net, batch, squared_error(net), other, tmp_path, show_progress=False)
    (tmp_path / "train.checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(LynxError, match="cannot be read as a checkpoint"):
        fit(net, batch, squared_error(net), CONFIG, tmp_path, show_progress=False)


def test_nan_loss_stops_the_run(tmp_path):
    net = nn.Linear(3, 1)
    with pytest.raises(LynxError, match="loss is NaN"):
        fit(net, batch, lambda x: net(x).sum() * float("nan"), CONFIG, tmp_path, show_progress=False)
