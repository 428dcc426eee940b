"""The process that decodes images, with pictures that mean it ill; serving knows nothing of it."""

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels
from mmsr.engine.catalogue.worker import NICENESS, decode
from mmsr.engine.catalogue.workers import Worker
from mmsr.engine.errors import RunnerFailed

SPEC = ImagePreprocess(size=16)
HEADER = {"preprocess": asdict(SPEC)}
PATIENCE_S = 60.0
ADDRESS_SPACE = 512 << 20


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    found = Worker("decode", ADDRESS_SPACE)
    yield found
    found.close()


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(0)
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = random.integers(0, 256, (bands, 40, 60), np.uint8)
    return Image.merge(mode, [Image.fromarray(band) for band in pixels])


def turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    return saved(image, "JPEG", exif=exif)


def sixteen_bit() -> bytes:
    values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    return saved(Image.fromarray(values), "PNG")


def animated() -> bytes:
    first, second = Image.new("RGB", (30, 30), (255, 0, 0)), Image.new("RGB", (30, 30), (0, 0, 9))
    return saved(first, "GIF", save_all=True, append_images=[second])


FILES = {
    "png": saved(noise(), "PNG"),
    "jpeg": saved(noise(), "JPEG"),
    "turned jpeg": turned(noise()),
    "cmyk jpeg": saved(noise("CMYK"), "JPEG"),
    "transparent png": saved(noise("RGBA"), "PNG"),
    "16 bit png": sixteen_bit(),
    "webp": saved(noise(), "WEBP"),
    "animated gif": animated(),
    "grey": saved(noise("L"), "PNG"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_training_reads(worker: Worker, name: str) -> None:
    said, pixels = worker.ask(HEADER, FILES[name], PATIENCE_S)
    right = load_pixels(FILES[name], SPEC)
    assert (np.frombuffer(pixels, np.uint8).reshape(said["shape"]) == right).all()


def bomb() -> bytes:
    """Return a PNG of few bytes that says it has 30,000 x 30,000 pixels."""
    header = (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    data = zlib.compress(bytes(1 << 20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


BAD = {
    "no image": (b"what is this", "not an image of a known format"),
    "another format": (saved(noise(), "BMP"), "expected JPEG, PNG, WebP or GIF"),
    "truncated": (FILES["png"][:-2000], "unreadable image"),
    "truncated jpeg": (FILES["jpeg"][:400], "unreadable image"),
    "too many pixels": (bomb(), "30000x30000 = 900000000 pixels, at most 50000000"),
    "too much memory": (FILES["png"], "more memory than an image may"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_refused_and_the_next_image_is_read(
    worker: Worker, name: str
) -> None:
    header = {"preprocess": asdict(ImagePreprocess(size=15_000))} if "memory" in name else HEADER
    file, reason = BAD[name]
    with pytest.raises(ImageError, match=reason):
        worker.ask(header, file, PATIENCE_S)
    assert len(worker.ask(HEADER, FILES["png"], PATIENCE_S)[1]) == 16 * 16 * 3


def test_a_process_that_takes_too_long_is_ended_and_another_one_begins(worker: Worker) -> None:
    worker.ask(HEADER, FILES["png"], PATIENCE_S)
    first = worker.pid
    with pytest.raises(ImageError, match="decoding it takes longer than 0 s"):
        worker.ask(HEADER, FILES["png"], 0.0)
    worker.ask(HEADER, FILES["png"], PATIENCE_S)
    assert worker.pid != first


def test_a_process_that_was_killed_is_replaced(worker: Worker) -> None:
    worker.ask(HEADER, FILES["png"], PATIENCE_S)
    worker.kill()
    with pytest.raises(ImageError, match="ended the process"):
        worker.ask(HEADER, FILES["png"], PATIENCE_S)
    worker.ask(HEADER, FILES["png"], PATIENCE_S)


def test_the_process_has_low_priority(worker: Worker) -> None:
    worker.ask(HEADER, FILES["png"], PATIENCE_S)
    assert worker.pid is not None
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, worker.pid) == min(19, here + NICENESS)


def test_an_encoder_that_fails_is_no_fault_of_the_image() -> None:
    worker = Worker("encode", None)
    try:
        with pytest.raises(RunnerFailed, match="encoding failed"):
            worker.ask({"modality": "text", "key": "k", "folder": "/nowhere"}, b"a", PATIENCE_S)
    finally:
        worker.close()


def test_decoding_needs_no_process_of_its_own_to_be_tried_out() -> None:
    said, pixels = decode(HEADER, FILES["png"])
    assert said == {"shape": [16, 16, 3]}
    assert len(pixels) == 16 * 16 * 3
