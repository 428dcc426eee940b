"""A tiny shop in files, and one call that prepares it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.source_files import Outcome, Prepare, prepare_folder, write_lines


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Prepare rows; each call writes into folders of its own."""
    calls = 0

    def run(items: list[Any], log: list[Any], k_core: int | None = None) -> Outcome:
        nonlocal calls
        calls += 1
        source, out = tmp_path / "source", tmp_path / f"out{calls}"
        source.mkdir(exist_ok=True)
        out.mkdir()
        write_lines(source / "items.jsonl", items)
        write_lines(source / "interactions.jsonl", log)
        return prepare_folder(source, out, k_core)

    return run


@pytest.fixture
def picture(tmp_path: Path) -> Callable[[str], Path]:
    """Write a small picture below the source folder."""

    def write(name: str) -> Path:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (200, 30, 30)).save(path)
        return path

    return write
