"""Evaluation in the authors' format: a JSONL of questions in, a JSONL of answers out."""

from .config import EvalConfig
from .predict import predict

__all__ = ["EvalConfig", "predict"]
