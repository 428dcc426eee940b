"""Settings and pictures that people hand in, damaged at random: used, or refused in one line."""

import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.damaged_bytes import damaged
from support.tally import SEED, Tally, rounds
from support.tree import ROOT

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels
from mmsr.engine.config import ServeConfig
from mmsr.engine.config_sources import printed, read_config
from mmsr.engine.tokens import TokenFile, entry_of
from mmsr.training.compare_plan import parse_variant
from mmsr.training.config import load_recipe

TOMLS = rounds(400, 10_000)
PICTURES = rounds(300, 5000)
PIECES = (
    b"=",
    b"[",
    b"]",
    b'"',
    b"\n",
    b"nan",
    b"-1",
    b"1e999",
    b"9" * 40,
    b"9" * 400,
    b"9" * 5000,
    b"[" * 5000,
    b"{a=" * 5000,
    b"true",
    b"\xff",
    b"{}",
)
OTHERS = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError)
VARIANT = 'gate: model.fusion="gate"; loss.text_weight=0.0; fit.epochs=3'
ENTRY = entry_of("shop", ["recommend"], "t")
SPEC = ImagePreprocess(size=16, max_pixels=1_000_000)


def readers_of_toml(path: Path) -> list[tuple[bytes, Callable[[], object]]]:
    """Return what each command reads as TOML: a good file's content, and how it is read."""
    toy = load_recipe(ROOT / "training/configs/toy.toml")
    tokens = ENTRY + "requests_per_s = 5\nburst = 10\n"
    settings = printed(read_config(ServeConfig, None, {}, {("server", "repository"): path}))
    return [
        ((ROOT / "training/configs/toy.toml").read_bytes(), lambda: load_recipe(path)),
        (settings.encode(), lambda: read_config(ServeConfig, path, {}, {})),
        (tokens.encode(), lambda: TokenFile(path, time.monotonic).load()),
        (VARIANT.encode(), lambda: parse_variant(path.read_text(errors="replace"), toy)),
    ]


def test_settings_that_are_damaged(tmp_path: Path, tally: Tally) -> None:
    """Recipes, their variants, settings of the server and tokens (TOML) damaged at random."""
    choose, path = random.Random(SEED), tmp_path / "settings.toml"
    read = readers_of_toml(path)
    for n in range(TOMLS):
        good, load = read[n % len(read)]
        path.write_bytes(damaged(good, choose, PIECES))
        try:
            load()
        except MmsrError as error:
            if "\n" in str(error):
                tally.lose(f"{n}: {error}")
            else:
                tally.survived("refused in one line")
        except (OSError, ValueError, *OTHERS, RecursionError) as error:
            tally.lose(f"{n}: {type(error).__name__}: {error}")
        else:
            tally.survived("means something that may be set")
    tally.check(at_least=TOMLS)


@pytest.mark.parametrize("text", ["x: a.b=" + "[" * 5000, "a = " + "[" * 5000, "a = " + "9" * 5000])
def test_settings_without_an_end(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    for _, load in readers_of_toml(path):
        with pytest.raises(MmsrError) as refused:
            load()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (0, "[fit]\nlearning_rate = {}"),
        (1, "[batch]\nmax_wait_ms = {}"),
        (2, ENTRY + "requests_per_s = {}\nburst = 1"),
        (3, "x: fit.learning_rate = {}"),
    ],
)
def test_a_number_that_no_float_can_hold(tmp_path: Path, file: int, text: str) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(text.format("9" * 400))
    with pytest.raises(MmsrError, match=r"learning_rate|max_wait_ms|requests_per_s"):
        readers_of_toml(path)[file][1]()


def pictures() -> list[bytes]:
    """Return pictures of every kind: also CMYK, 16 bits, animated, turned, and with a tail."""
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, object]]] = [
        ("RGB", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif}),
        ("CMYK", "JPEG", {}),
        ("RGBA", "WEBP", {}),
        ("RGBA", "GIF", {"save_all": True, "append_images": [Image.new("RGBA", (60, 40))]}),
        ("RGB", "TIFF", {}),
        ("RGB", "BMP", {}),
    ]
    found = []
    for mode, kind, options in kinds:
        file = io.BytesIO()
        image = Image.fromarray(values if len(mode) == 4 else values[..., :3], mode=None)
        image.convert(mode).save(file, kind, **options)
        found.append(file.getvalue())
    deep = io.BytesIO()
    Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(deep, "PNG")
    archive = b"PK\x03\x04" + bytes(26) + b"<script>alert(1)</script>%PDF-1.7"
    return [*found, deep.getvalue(), found[0] + archive, found[4] + archive]


@pytest.mark.filterwarnings("ignore:::PIL")  # Pillow remarks on odd metadata
def test_pictures_that_are_damaged(tally: Tally) -> None:
    """Pictures of every format damaged at random; polyglots, CMYK, 16 bits, animated, turned."""
    choose, good = random.Random(SEED), pictures()
    for file in good:
        assert load_pixels(file, SPEC).shape == (16, 16, 3)
    for n in range(PICTURES):
        try:
            pixels = load_pixels(damaged(choose.choice(good), choose), SPEC)
        except ImageError as error:
            if "\n" in str(error):
                tally.lose(f"{n}: {error}")
            else:
                tally.survived("refused in one line")
        except (*OTHERS, struct.error, zlib.error) as error:
            tally.lose(f"{n}: {type(error).__name__}: {error}")
        else:
            assert pixels.shape == (16, 16, 3)
            tally.survived("decoded: the damage is in pixels or in what nobody reads")
    tally.check(at_least=PICTURES)
