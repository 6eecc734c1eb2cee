"""Weights in and out: the authors' three files (Hugging Face LLaMA folders too), the engine's own folder."""

from .convert import Conversion, convert
from .fit import load_tensors_into
from .folder import (
    load_folder,
    read_config,
    read_quantization,
    read_settings_of,
    read_stored_dtype,
    save_folder,
    save_model,
)
from .info import ParameterCounts, count_parameters
from .quantized import Quantization, quantize_model
from .release import LoadReport, Release, load_release
from .settings import Settings, read_settings

__all__ = [
    "Conversion",
    "LoadReport",
    "ParameterCounts",
    "Quantization",
    "Release",
    "Settings",
    "convert",
    "count_parameters",
    "load_folder",
    "load_release",
    "load_tensors_into",
    "quantize_model",
    "read_config",
    "read_quantization",
    "read_settings",
    "read_settings_of",
    "read_stored_dtype",
    "save_folder",
    "save_model",
]
