import io
import multiprocessing
import select
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsr.bundle.preprocess import ImagePreprocess
from mmsr.training.features.config import FeaturesError
from mmsr.training.features.decode import (
    FILES_PER_TASK,
    Decoded,
    Decoder,
    _work,
    _Worker,
    decode_all,
)

SIZE = 16


def make_decoder(folder: Path, known: Sequence[bytes] = ()) -> Decoder:
    path = folder / "known.npy"
    np.save(path, np.sort(np.array(list(known), "S32")))
    return Decoder(preprocess=ImagePreprocess(size=SIZE), known_keys=path)


def decode(paths: Sequence[Path], decoder: Decoder, workers: int = 1) -> list[Decoded]:
    tasks = [(number, str(path)) for number, path in enumerate(paths)]
    return list(decode_all(tasks, decoder, workers))


def decode_here(path: Path, decoder: Decoder) -> Decoded:
    return decoder.decode((0, str(path)), np.load(decoder.known_keys))


def halves() -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (64, 64), (255, 0, 0))
    image.paste((0, 0, 255), (32, 0, 64, 64))
    return image


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def as_bytes(image: Image.Image, form: str, exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **({"exif": exif} if exif else {}))
    return file.getvalue()


def test_pictures_of_every_kind_are_decoded_and_broken_ones_are_told(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 3  # upside down: left and right change places
    grey16 = Image.fromarray(np.full((20, 20), 65535, np.uint16))
    contents = {
        "plain.png": as_bytes(halves(), "PNG"),
        "plain.jpg": as_bytes(halves(), "JPEG"),
        "turned.jpg": as_bytes(halves(), "JPEG", turned),
        "cmyk.jpg": as_bytes(halves().convert("CMYK"), "JPEG"),
        "palette.gif": as_bytes(halves(), "GIF"),
        "grey16.png": as_bytes(grey16, "PNG"),
        "truncated.jpg": as_bytes(halves(), "JPEG")[:-200],
        "bomb.png": bomb(8_000),
        "huge.png": bomb(60_000),
        "text.jpg": b"this is no picture",
        "empty.jpg": b"",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / name for name in contents] + [tmp_path / "absent.jpg"]
    decoder = make_decoder(tmp_path)
    answers = {path.name: decode_here(path, decoder) for path in paths}
    for name in ("plain.png", "plain.jpg", "cmyk.jpg", "palette.gif"):
        assert is_red(answers[name], "left"), name
    assert is_red(answers["turned.jpg"], "right")
    assert answers["grey16.png"].pixels is not None
    problems = {name: answer.problem for name, answer in answers.items() if answer.problem}
    broken = {"truncated.jpg", "bomb.png", "huge.png", "text.jpg", "empty.jpg", "absent.jpg"}
    assert set(problems) == broken
    assert "8000x8000 = 64000000 pixels, at most 50000000" in problems["bomb.png"]
    assert "3600000000 pixels" in problems["huge.png"]
    assert "truncated" in problems["truncated.jpg"].lower()
    assert answers["absent.jpg"].key is None


def is_red(answer: Decoded, side: str) -> bool:
    assert answer.pixels is not None, answer.problem
    assert answer.pixels.shape == (SIZE, SIZE, 3)
    column = 2 if side == "left" else SIZE - 3
    red, _, blue = answer.pixels[SIZE // 2, column].tolist()
    return bool(red > 200 and blue < 60)


def test_a_known_content_is_hashed_and_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(as_bytes(halves(), "PNG"))
    first = decode_here(path, make_decoder(tmp_path))
    assert first.key is not None
    assert first.pixels is not None
    second = decode_here(path, make_decoder(tmp_path, [first.key]))
    assert (second.key, second.pixels, second.problem) == (first.key, None, None)


WORKER_MODULE = """
import os, sys
from pathlib import Path
from mmsr.training.features.decode import Decoded, Decoder

class Fragile(Decoder):
    def decode(self, task, known):
        if Path(task[1]).name == "crash":
            os._exit(11)
        return Decoded(file=task[0], key=None, pixels=None, problem=str("torch" in sys.modules))

class NeverStarts(Decoder):
    def __setstate__(self, state):
        os._exit(11)
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Decoder]:
    (tmp_path / "fragile_decoder.py").write_text(WORKER_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    import fragile_decoder  # type: ignore[import-not-found]

    found: type[Decoder] = fragile_decoder.Fragile
    return found


def test_a_file_that_kills_its_worker_is_told_and_the_others_are_decoded(
    tmp_path: Path, fragile: type[Decoder]
) -> None:
    plain = make_decoder(tmp_path)
    decoder = fragile(preprocess=plain.preprocess, known_keys=plain.known_keys)
    names = [f"{number}" for number in range(20)]
    names[13] = "crash"
    answers = decode([tmp_path / name for name in names], decoder, workers=2)
    assert sorted(answer.file for answer in answers) == list(range(20))
    problems = {answer.file: answer.problem for answer in answers}
    assert problems.pop(13) == "decoding it ended the process that did"
    # A worker that imported torch would need half a gigabyte, and seconds to start.
    assert set(problems.values()) == {"False"}


def test_workers_that_cannot_start_are_an_error_and_no_endless_loop(
    tmp_path: Path, fragile: type[Decoder]
) -> None:
    import fragile_decoder

    plain = make_decoder(tmp_path)
    decoder = fragile_decoder.NeverStarts(preprocess=plain.preprocess, known_keys=plain.known_keys)
    with pytest.raises(FeaturesError, match="end as soon as they start"):
        decode([tmp_path / "a"], decoder)


def test_nothing_to_decode_starts_nothing(tmp_path: Path) -> None:
    assert decode([], make_decoder(tmp_path)) == []


def test_the_caller_may_stop_early(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(as_bytes(halves(), "PNG"))
    answers = decode_all([(i, str(path)) for i in range(40)], make_decoder(tmp_path), 1)
    assert next(answers).file == 0
    assert multiprocessing.active_children()
    answers.close()
    assert not multiprocessing.active_children()


def test_what_a_worker_says_through_the_pipe_is_one_piece_that_no_kill_can_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """POSIX: what is not longer than PIPE_BUF is written whole or not at all."""
    decoder = replace(make_decoder(tmp_path), preprocess=ImagePreprocess(size=224))
    monkeypatch.setattr(_Worker, "decoder", decoder, raising=False)
    monkeypatch.setattr(_Worker, "known", np.load(decoder.known_keys), raising=False)
    tasks = []
    for number in range(FILES_PER_TASK):
        path = tmp_path / f"{number}.png"
        path.write_bytes(as_bytes(Image.new("RGB", (300, 300), (number, 0, 0)), "PNG"))
        tasks.append((number, str(path)))
    assert len(ForkingPickler.dumps(_work(tasks, tmp_path))) < select.PIPE_BUF


def test_pixels_come_in_order_and_leave_no_file(tmp_path: Path) -> None:
    decoder = make_decoder(tmp_path)
    paths = []
    for number in range(3 * FILES_PER_TASK + 1):
        paths.append(tmp_path / f"{number}.png")
        broken = number % 5 == 2
        colour = Image.new("RGB", (20, 20), (number, 0, 0))
        paths[-1].write_bytes(b"" if broken else as_bytes(colour, "PNG"))
    found = decode(paths, decoder, workers=2)
    assert [decoded.file for decoded in found] == list(range(len(paths)))
    for number, decoded in enumerate(found):
        if number % 5 == 2:
            assert decoded.pixels is None
            assert decoded.problem is not None
        else:
            assert decoded.pixels is not None
            assert decoded.pixels[0, 0].tolist() == [number, 0, 0]
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
