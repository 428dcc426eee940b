"""The rivals' environments are made from exact versions, and from no address of one place."""

import re
from pathlib import Path

import pytest
from support.tree import ROOT

FILES = sorted(
    path
    for folder in ("training", "engine")
    for path in (ROOT / folder / "benchmarks" / "rivals").glob("requirements-*.txt")
)
EXACT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+]*")
SERVERS = {"litserve": "litserve", "bentoml": "bentoml", "ray": "ray", "replay": "replay-rec"}


def names_of(path: str) -> list[str]:
    lines = (ROOT / path).read_text().splitlines()
    return [line.split("==")[0].lower() for line in lines if not line.startswith("#")]


def test_there_is_one_for_each_rival_of_the_engine() -> None:
    found = {path.stem for path in FILES if "engine" in path.parts}
    assert found == {f"requirements-{name}" for name in SERVERS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-4]}/{path.name}")
def test_every_package_is_pinned_to_one_version(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not EXACT.fullmatch(line)] == []


@pytest.mark.parametrize(("name", "package"), SERVERS.items())
def test_the_rival_itself_and_what_the_shared_model_needs_are_there(
    name: str, package: str
) -> None:
    names = names_of(f"engine/benchmarks/rivals/requirements-{name}.txt")
    assert package in names
    assert {"numpy", "onnxruntime", "pyarrow", "protobuf"} <= set(names)


def test_all_wrap_the_same_onnx_runtime() -> None:
    files = (ROOT / "engine/benchmarks/rivals").glob("requirements-*.txt")
    texts = [path.read_text() for path in files if "replay" not in path.name]
    pins = {line for text in texts for line in text.splitlines() if "onnxruntime==" in line}
    assert len(pins) == 1
