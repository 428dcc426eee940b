"""A small real bundle, published once, and a folder copy of it that a test may damage."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.tiny_bundle import Shop, publish

from mmsr.engine.model import SequenceModel, open_model


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture
def copy(shop: Shop, tmp_path: Path) -> Path:
    """Return a copy of the bundle's folder."""
    folder = tmp_path / "bundle"
    shutil.copytree(shop.folder, folder)
    return folder


@pytest.fixture
def model(shop: Shop) -> Iterator[SequenceModel]:
    opened = open_model(shop.folder, threads=1)
    yield opened
    opened.close()
