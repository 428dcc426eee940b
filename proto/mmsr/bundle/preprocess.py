"""How an image file becomes the pixels that an image encoder reads.

Shared by training and serving, so that there is one way only. Normalisation is part of the
encoder's graph; here is everything before it.
"""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import MmsrError

if TYPE_CHECKING:
    from PIL import Image

# What shops' pictures come in. Not what Pillow reads by other programs (PostScript by Ghostscript),
# nor what holds pictures of another size than its header says (ICO).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Resampling filters by name, as Pillow numbers them (PIL.Image.Resampling).
FILTERS = {"bilinear": 2, "bicubic": 3, "lanczos": 1}


class ImageError(MmsrError):
    """An image cannot be used; the text says why."""


@dataclass(frozen=True, kw_only=True)
class ImagePreprocess:
    """The whole picture, turned upright, in RGB, resized to `size` x `size` pixels."""

    size: int = 224
    resample: str = "bilinear"
    max_pixels: int = 50_000_000  # width x height; more is refused before decoding

    def __post_init__(self) -> None:
        if self.size < 1 or self.resample not in FILTERS:
            raise MmsrError(
                f"image preprocessing: size {self.size}, resample {self.resample!r}; "
                f"expected a positive size and one of {', '.join(FILTERS)}"
            )


def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # older releases lack some


def open_image(data: bytes, max_pixels: int) -> "Image.Image":
    """Read the header only; refuse what is no image or has more than `max_pixels` pixels."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns first; the one below refuses
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except UnidentifiedImageError:
        raise ImageError(f"not an image ({len(data)} bytes)") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"unreadable image: {error}") from None
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ImageError(
            f"image of {image.width}x{image.height} = {pixels} pixels, at most {max_pixels}"
        )
    return image


def load_pixels(data: bytes, spec: ImagePreprocess) -> npt.NDArray[np.uint8]:
    """Decode an image file's bytes to RGB pixels [size, size, 3].

    Raises `ImageError` for anything that cannot be decoded completely.
    """
    from PIL import Image, ImageOps

    image = open_image(data, spec.max_pixels)
    try:
        # JPEG only: decode at a reduced scale that is still at least twice the target size.
        image.draft("RGB", (2 * spec.size, 2 * spec.size))
        upright = ImageOps.exif_transpose(image)
        rgb = upright.convert("RGB")
        small = rgb.resize((spec.size, spec.size), Image.Resampling(FILTERS[spec.resample]))
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError) as error:  # AVIF's
        raise ImageError(f"unreadable image: {error}") from None
    return np.asarray(small, dtype=np.uint8)
