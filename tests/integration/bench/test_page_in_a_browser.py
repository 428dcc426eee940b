"""The page of a report in a real headless browser: at a desk, on a phone, in the dark."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support.browser import DESK, PHONE, measured, screenshot
from support.load_report import load_report

from mmsr.engine.bench.page.document import write_page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, load_report())
    return path


def pixels(picture: Path) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(picture).convert("RGB"), np.float64)


@pytest.mark.parametrize("size", [DESK, PHONE])
def test_the_page_is_as_wide_as_its_window_and_every_chart_is_drawn(
    page: Path, size: tuple[int, int]
) -> None:
    found = json.loads(measured(page, size))
    assert found["window"] == size[0]
    assert found["wide"] <= found["window"]  # nothing but tables in their own boxes scrolls
    assert found["small"] == 0  # nothing below 12 pixels
    assert len(found["figures"]) == 12
    for width, height in found["figures"]:
        assert 200 < width <= found["window"]
        assert height > 100


def test_the_page_follows_the_colours_of_the_room(page: Path, tmp_path: Path) -> None:
    means = {}
    for dark in (False, True):
        picture = tmp_path / f"dark-{dark}.png"
        screenshot(page, picture, PHONE, dark=dark)
        drawn = pixels(picture)
        means[dark] = float(drawn.mean())
        assert drawn.std() > 10  # something is on it
        lines = (drawn.max(axis=2) - drawn.min(axis=2) > 80).mean()
        assert lines > 0.0005  # charts in their colours
    assert means[False] > 200
    assert means[True] < 60
