"""A server that answers, and a repository with a tiny bundle."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.answering_server import Behaviour, serve_in_thread
from support.tiny_bundle import Sizes, Twin, publish

from mmsr.bundle.repository import Repository


@pytest.fixture
def behaviour() -> Behaviour:
    return Behaviour()


@pytest.fixture
def target(behaviour: Behaviour) -> Iterator[str]:
    with serve_in_thread(behaviour) as address:
        yield address


@pytest.fixture
def twin(tmp_path: Path) -> Twin:
    return publish(tmp_path / "repository", Sizes(items=60, probes=5)).twin


@pytest.fixture
def repository(twin: Twin, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")
