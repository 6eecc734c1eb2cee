"""Images and video in."""

from .frames import sample_frame_ids
from .image import MAX_IMAGE_PIXELS, load_image, preprocess, resize_crop
from .source import Vision, load_file, load_video, load_vision

__all__ = [
    "MAX_IMAGE_PIXELS",
    "Vision",
    "load_file",
    "load_image",
    "load_video",
    "load_vision",
    "preprocess",
    "resize_crop",
    "sample_frame_ids",
]
