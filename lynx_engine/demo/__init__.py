"""The demo model: a small Lynx that the project trains itself, on pictures and questions that it generates."""

from pathlib import Path

from .dialogue import train_tokenizer
from .evaluate import Accuracy, Scores, evaluate
from .recipe import Phase, new_model, phases

__all__ = ["Accuracy", "Phase", "Scores", "evaluate", "new_model", "phases", "train_tokenizer", "weights_folder"]


def weights_folder() -> Path:
    """The trained model that ships with the package, in the engine's own format."""
    return Path(__file__).parent / "weights"
