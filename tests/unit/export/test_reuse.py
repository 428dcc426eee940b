"""An encoder that a bundle has already is taken from it, if it follows from the same."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import publish

from mmsr.bundle.manifest import GraphSpec, describe_files, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export.reuse import reuse_graph

MADE_FROM = {"spec": {"encoder": "vgg16", "weights_sha256": "abc"}, "versions": {"torch": "2"}}
FILES = ("text_encoder.onnx", "tokenizer.json")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """One bundle with a text encoder in it."""
    repository = Repository(publish(tmp_path / "repository").root)
    bundle = repository.path(repository.ids()[0])
    for name in FILES:
        (bundle / name).write_text(f"content of {name}")
    manifest = load_manifest(bundle)
    graph = GraphSpec(file="text_encoder.onnx", inputs=(), outputs=())
    manifest = replace(
        manifest,
        files=describe_files(bundle),
        graphs={**manifest.graphs, "text_encoder": graph},
        provenance={"made_from": {"text_encoder": MADE_FROM}},
    )
    manifest.save(bundle)
    return repository


def bring(repository: Repository, folder: Path, wanted: dict[str, Any]) -> GraphSpec | None:
    folder.mkdir(exist_ok=True)
    return reuse_graph(repository, "text_encoder", wanted, FILES, folder)


def test_the_same_is_brought_over(repository: Repository, tmp_path: Path) -> None:
    found = bring(repository, tmp_path / "new", MADE_FROM)
    assert found is not None
    assert found.file == "text_encoder.onnx"
    assert (tmp_path / "new" / "tokenizer.json").read_text() == "content of tokenizer.json"


def test_other_weights_or_other_tools_are_not(repository: Repository, tmp_path: Path) -> None:
    other_weights = {**MADE_FROM, "spec": {"encoder": "vgg16", "weights_sha256": "abd"}}
    other_tools = {**MADE_FROM, "versions": {"torch": "3"}}
    for wanted in (other_weights, other_tools):
        assert bring(repository, tmp_path / "new", wanted) is None


def test_a_damaged_file_is_passed_over(repository: Repository, tmp_path: Path) -> None:
    bundle = repository.path(repository.ids()[0])
    (bundle / "tokenizer.json").write_text("CONTENT of tokenizer.json")
    assert bring(repository, tmp_path / "new", MADE_FROM) is None
    assert not list((tmp_path / "new").iterdir())  # no link that writing would go through
    (bundle / "text_encoder.onnx").unlink()
    assert bring(repository, tmp_path / "new", MADE_FROM) is None
