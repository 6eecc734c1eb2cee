"""Training: the paper's schedule and one loop that shows progress, can be interrupted, and resumes exactly."""

from .loop import FitConfig, fit
from .schedule import linear_schedule

__all__ = ["FitConfig", "fit", "linear_schedule"]
