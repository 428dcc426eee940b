"""The pages of reports in a real headless browser: at a desk, on a phone, in the dark."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from support.browser import DESK, PHONE, measured, screenshot
from support.load_report import load_report
from support.runner_reports import encode_report, engine_report, retrain_report
from support.write_report import write_report_of

from mmsr.engine.bench.page.document import write_page

# What each page is of, and how many charts are on it.
PAGES: dict[str, tuple[Callable[[Path], Any], int]] = {
    "server": (lambda root: load_report(), 12),
    "catalogue": (lambda root: write_report_of(), 8),
    "engine": (engine_report, 3),
    "encode": (encode_report, 2),
    "retrain": (lambda root: retrain_report(), 0),
}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("page")
    found = {}
    for name, (report_of, _) in PAGES.items():
        found[name] = folder / f"{name}.html"
        write_page(found[name], report_of(folder / name))
    return found


def pixels(picture: Path) -> npt.NDArray[np.float64]:
    return np.asarray(Image.open(picture).convert("RGB"), np.float64)


@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_wide_as_its_window_and_every_chart_is_drawn(
    pages: dict[str, Path], name: str, size: tuple[int, int]
) -> None:
    found = json.loads(measured(pages[name], size))
    assert found["window"] == size[0]
    assert found["wide"] <= found["window"]  # nothing but tables in their own boxes scrolls
    assert found["small"] == 0  # nothing below 12 pixels
    assert len(found["figures"]) == PAGES[name][1]
    for width, height in found["figures"]:
        assert 200 < width <= found["window"]
        assert height > 100


@pytest.mark.parametrize("name", PAGES)
def test_a_page_follows_the_colours_of_the_room(
    pages: dict[str, Path], name: str, tmp_path: Path
) -> None:
    means = {}
    for dark in (False, True):
        picture = tmp_path / f"dark-{dark}.png"
        screenshot(pages[name], picture, PHONE, dark=dark)
        drawn = pixels(picture)
        means[dark] = float(drawn.mean())
        assert drawn.std() > 10  # something is on it
        lines = (drawn.max(axis=2) - drawn.min(axis=2) > 80).mean()
        assert lines > 0.0005  # charts in their colours
    assert means[False] > 200
    assert means[True] < 60
