"""Thumbnails of items: the whole picture, upright, small. A file that cannot be read has none."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.preprocess import ImageError, open_image
from mmsr.training.features.image_files import MAX_FILE_BYTES

MAX_PIXELS = 50_000_000
Pixels = npt.NDArray[np.uint8]  # [height, width, 3]


def thumbnail(path: Path, side_px: int) -> Pixels | None:
    """Return the picture shrunk into a square of `side_px`, its proportions kept, or None."""
    from PIL import ImageOps

    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow remarks on odd metadata
            image = open_image(path.read_bytes(), MAX_PIXELS)
            image.draft("RGB", (2 * side_px, 2 * side_px))  # JPEG: decode at a reduced scale
            upright = ImageOps.exif_transpose(image).convert("RGB")
            fitted = ImageOps.contain(upright, (side_px, side_px))
    except (ImageError, OSError, ValueError, SyntaxError, EOFError, RuntimeError):
        return None
    return np.asarray(fitted, dtype=np.uint8)
