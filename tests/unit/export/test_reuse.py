"""An encoder that a bundle has already is taken from it, if it follows from the same."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import publish

import mmsr.export
import mmsr.training.features
from mmsr.bundle.manifest import GraphSpec, describe_files, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export import reuse
from mmsr.export.reuse import reuse_graph
from mmsr.export.template_store import version_of

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
    graphs = {**manifest.graphs, "text_encoder": graph}
    replace(manifest, files=describe_files(bundle), graphs=graphs).save(bundle)
    record(repository, MADE_FROM)
    return repository


def record(repository: Repository, made_from: dict[str, Any]) -> None:
    """Let the bundle say what its encoder was made from."""
    bundle = repository.path(repository.ids()[0])
    provenance = {"made_from": {"text_encoder": made_from}}
    replace(load_manifest(bundle), provenance=provenance).save(bundle)


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


SPEC = {"encoder": "a model", "weights_sha256": "abc"}


@pytest.mark.parametrize(
    ("graph", "package"),
    [
        *((graph, "torch") for graph in ("image_encoder", "text_encoder")),
        *((graph, "onnxscript") for graph in ("image_encoder", "text_encoder")),
        *(("text_encoder", "transformers"), ("text_encoder", "tokenizers")),
        ("image_encoder", "torchvision"),
    ],
)
def test_an_encoder_follows_from_the_versions_of_what_builds_and_converts_it(
    graph: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = reuse.follows_from(graph, SPEC)
    assert before == reuse.follows_from(graph, SPEC)
    assert before["versions"][package]
    other = {package: "0.1"}
    monkeypatch.setattr(reuse, "version_of", lambda name: other.get(name) or version_of(name))
    assert reuse.follows_from(graph, SPEC) != before


@pytest.mark.parametrize(
    "file",
    [
        *("features/image_encoder.py", "features/text_encoder.py", "features/image_weights.py"),
        *("export/convert.py", "export/onnx_file.py", "export/encoders.py"),
    ],
)
def test_an_encoder_follows_from_the_source_that_makes_it(
    file: str, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if one line had changed: what was converted by the code of before is not taken."""
    record(repository, reuse.follows_from("text_encoder", SPEC))
    assert bring(repository, tmp_path / "same", reuse.follows_from("text_encoder", SPEC))
    copies = {"features": mmsr.training.features, "export": mmsr.export}
    for name, package in copies.items():
        shutil.copytree(next(iter(package.__path__)), tmp_path / name)
        monkeypatch.setattr(package, "__path__", [str(tmp_path / name)])
    with (tmp_path / file).open("a") as source:
        source.write("# changed\n")
    reuse.encoder_source.cache_clear()
    other = reuse.follows_from("text_encoder", SPEC)
    reuse.encoder_source.cache_clear()
    assert bring(repository, tmp_path / "new", other) is None


def test_a_damaged_file_is_passed_over(repository: Repository, tmp_path: Path) -> None:
    bundle = repository.path(repository.ids()[0])
    (bundle / "tokenizer.json").write_text("CONTENT of tokenizer.json")
    assert bring(repository, tmp_path / "new", MADE_FROM) is None
    assert not list((tmp_path / "new").iterdir())  # no link that writing would go through
    (bundle / "text_encoder.onnx").unlink()
    assert bring(repository, tmp_path / "new", MADE_FROM) is None
