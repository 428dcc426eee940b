"""An image file becomes upright RGB pixels, or an error that says why not."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels

SPEC = ImagePreprocess(size=16)


def encode(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    buffer = io.BytesIO()
    options = {} if exif is None else {"exif": exif}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_colours_come_in_the_order_red_green_blue() -> None:
    pixels = load_pixels(encode(Image.new("RGB", (40, 30), (200, 100, 10))), SPEC)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert pixels[8, 8].tolist() == [200, 100, 10]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_colour_mode_is_read(mode: str) -> None:
    image = Image.new("RGB", (20, 20), (255, 255, 255))
    image = Image.new("I;16", (20, 20), 255) if mode == "I;16" else image.convert(mode)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    assert load_pixels(encode(image, kind), SPEC).shape == (16, 16, 3)


def test_a_photograph_taken_sideways_is_turned_upright() -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise
    pixels = load_pixels(encode(image, "JPEG", exif), SPEC)
    assert pixels[8, 14].mean() > 200
    assert pixels[8, 1].mean() < 50


def said_to_be(width: int, height: int, png: bytes) -> bytes:
    """Return the picture with another size in its header, which has a valid checksum."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = said_to_be(5000, 5000, encode(Image.new("1", (1, 1))))
    with pytest.raises(ImageError, match="5000x5000 = 25000000 pixels, at most 1000"):
        load_pixels(data, ImagePreprocess(max_pixels=1000))
    beyond_pillows_own_limit = said_to_be(14_000, 14_000, encode(Image.new("1", (1, 1))))
    with pytest.raises(ImageError, match="196000000 pixels, at most 50000000"):
        load_pixels(beyond_pillows_own_limit, ImagePreprocess())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF"])
def test_a_cut_file_is_an_error(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(noise), kind)
    for cut in (0, 3, len(whole) // 2):
        with pytest.raises(ImageError, match="image"):
            load_pixels(whole[:cut], SPEC)


def test_what_other_programs_would_have_to_read_is_no_image() -> None:
    eps = io.BytesIO()
    Image.new("RGB", (8, 8)).save(eps, "EPS")
    inside = io.BytesIO()  # its header says 16 x 16, the picture in it is what it likes
    Image.new("RGB", (64, 64)).save(inside, "ICO", sizes=[(16, 16)])
    for data in (eps.getvalue(), inside.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n(sh) system\n"):
        with pytest.raises(ImageError, match="not an image"):
            load_pixels(data, SPEC)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_usual_format_is_read(kind: str) -> None:
    data = encode(Image.new("RGB", (20, 20), (9, 9, 9)), kind)
    assert load_pixels(data, SPEC).shape == (16, 16, 3)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(MmsrError, match="resample 'nearest'"):
        ImagePreprocess(resample="nearest")
