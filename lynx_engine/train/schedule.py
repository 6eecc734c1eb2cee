"""Learning rate over steps (LYNX.md section 5, the paper's Table 5)."""

from __future__ import annotations


def linear_schedule(step: int, steps: int, peak: float, start: float, warmup: float = 0.05) -> float:
    """Learning rate of step 0, 1, ..., steps - 1: linear from `start` to `peak` over the first `warmup` of the steps,
    then linear to zero, which the step after the last would have."""
    warm = round(steps * warmup)
    if step < warm:
        return start + (peak - start) * step / warm
    return peak * (steps - step) / (steps - warm)
