"""Settings and pictures that people hand in, damaged at random: used, or refused in one line."""

import io
import random
import struct
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
from mmsr.training.config import load_recipe

TOMLS = rounds(300, 5000)
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
    b"true",
    b"\xff",
    b"{}",
)
OTHERS = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError)
SPEC = ImagePreprocess(size=16, max_pixels=1_000_000)


def test_settings_that_are_damaged(tmp_path: Path, tally: Tally) -> None:
    """Recipes and settings of the server (TOML) damaged at random."""
    choose, path = random.Random(SEED), tmp_path / "settings.toml"
    settings = printed(read_config(ServeConfig, None, {}, {("server", "repository"): tmp_path}))
    read: list[tuple[bytes, Callable[[], object]]] = [
        ((ROOT / "training/configs/toy.toml").read_bytes(), lambda: load_recipe(path)),
        (settings.encode(), lambda: read_config(ServeConfig, path, {}, {})),
    ]
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
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            tally.lose(f"{n}: {type(error).__name__}: {error}")
        else:
            tally.survived("means something that may be set")
    tally.check(at_least=TOMLS)


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
