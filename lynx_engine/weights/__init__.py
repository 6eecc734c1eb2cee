"""Weights in and out: the authors' three files (Hugging Face LLaMA folders too), the engine's own folder."""

from .convert import Conversion, convert
from .fit import load_tensors_into
from .folder import load_folder, read_config, read_settings_of, save_folder, save_model
from .info import ParameterCounts, count_parameters
from .release import LoadReport, Release, load_release
from .settings import Settings, read_settings

__all__ = [
    "Conversion",
    "LoadReport",
    "ParameterCounts",
    "Release",
    "Settings",
    "convert",
    "count_parameters",
    "load_folder",
    "load_release",
    "load_tensors_into",
    "read_config",
    "read_settings",
    "read_settings_of",
    "save_folder",
    "save_model",
]
