"""proto/README.md beside what an export writes: every file, field, key, column and input is named.

Read are the first columns of its tables, found by their head; and of a manifest's field the line
that explains it.
"""

import json
import re
from dataclasses import fields
from typing import Any

import pyarrow as pa
import pytest
from support.exported import small_run
from support.tree import ROOT

from mmsr.bundle.catalogue import SCHEMA
from mmsr.bundle.manifest import FileEntry, GraphSpec, Manifest, TableSizes, TensorSpec
from mmsr.bundle.repository import Repository
from mmsr.engine.opened import CODE_FILES, CODE_INPUTS
from mmsr.export.build import Plan, Stages, publish_run
from mmsr.export.gate import GateReport
from mmsr.export.quality import Policy, QualityReport
from mmsr.export.tensorrt.engines import EngineChoice, EngineEntry, described
from mmsr.export.tensorrt.flavour import Flavour

pytestmark = pytest.mark.slow  # one real export

NAME = re.compile(r"`([^`\n]+)`")
BY_GRAPH = {  # the sentence that a graph's inputs follow
    "sequence": "Inputs of `sequence.onnx`",
    "explain": "Inputs of `explain.onnx`",
    "item": "Inputs of `item.onnx`",
}


def readme() -> str:
    return (ROOT / "proto" / "README.md").read_text()


def lines_of_table(text: str, head: str) -> dict[str, str]:
    """Return the table whose head begins so: each name of a first column -> its whole line."""
    assert text.count(head) == 1, f"proto/README.md: one table with {head!r}, please"
    lines = text[text.index(head) :].splitlines()[2:]
    body = lines[: next(n for n, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    return {name: line for line in body for name in NAME.findall(line.split("|")[1])}


def names_of(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the manifest of a real export of a model with every source, as it lies on disk."""
    root = tmp_path_factory.mktemp("bundle-readme")
    repository = Repository(root / "repository")
    plan = Plan(policy=Policy(accept_drop=True))
    bundle_id, _ = publish_run(small_run(root), plan, repository, Stages(tell=lambda _: None))
    found: dict[str, Any] = json.loads((repository.path(bundle_id) / "manifest.json").read_text())
    on_disk = {p for p in repository.path(bundle_id).rglob("*") if p.is_file()}
    assert {str(p.relative_to(repository.path(bundle_id))) for p in on_disk} == {
        *found["files"],
        "manifest.json",
    }
    return found


def test_every_file_of_a_bundle_is_explained(manifest: dict[str, Any]) -> None:
    explained = lines_of_table(readme(), "| file | what it is |")
    assert {*manifest["files"], *CODE_FILES.values(), "manifest.json"} == explained.keys()


def test_every_field_of_the_manifest_is_explained_with_what_it_holds(
    manifest: dict[str, Any],
) -> None:
    explained = lines_of_table(readme(), "| field | what it says |")
    assert manifest.keys() == names_of(Manifest) | {"bundle_id", "checksum"} == explained.keys()
    holds = {
        "tables": names_of(TableSizes),
        "files": names_of(FileEntry),
        "graphs": names_of(GraphSpec) | names_of(TensorSpec) | manifest["graphs"].keys(),
        "features": manifest["features"].keys(),
    }
    for field, names in holds.items():
        assert names <= {*NAME.findall(explained[field])}, field


def test_every_key_of_the_provenance_is_explained(manifest: dict[str, Any]) -> None:
    explained = lines_of_table(readme(), "| in `provenance` | what it says |")
    only_in_int8 = {"text_precision"}
    assert manifest["provenance"].keys() | only_in_int8 == explained.keys()
    quality = {*NAME.findall(explained["quality"])}
    assert names_of(QualityReport) | manifest["provenance"]["quality"].keys() <= quality
    for key in ("precision", "item_rows", "scoring"):
        names = manifest["provenance"][key].keys()
        assert names <= {*NAME.findall(explained[key])}, key


def test_every_number_of_the_gate_is_explained(manifest: dict[str, Any]) -> None:
    explained = lines_of_table(readme(), "| in `parity` | what was measured |")
    assert manifest["parity"].keys() == names_of(GateReport) == explained.keys()


def test_every_key_of_engine_json_is_explained() -> None:
    paragraph = readme().partition("one plan a graph and `engine.json`:")[2].partition("\n\n")[0]
    flavour = Flavour(name="tensorrt-rtx", version="1.2", module=None)
    found = described("0" * 16, EngineChoice(flavour=flavour, gpu=None), {})
    assert found.keys() | names_of(EngineEntry) <= {*NAME.findall(paragraph)}


def test_every_column_of_the_catalogue_is_explained_with_its_type() -> None:
    explained = lines_of_table(readme(), "| column of `catalogue.parquet` | type |")
    assert list(explained) == SCHEMA.names
    for field in SCHEMA:
        kind = "list of strings" if pa.types.is_list(field.type) else str(field.type)
        kind += "" if field.nullable else ", never null"
        assert explained[field.name].split("|")[2].strip() == kind, field.name


@pytest.mark.parametrize("graph", BY_GRAPH)
def test_every_input_and_output_of_a_graph_is_explained_with_its_type(
    graph: str, manifest: dict[str, Any]
) -> None:
    text = readme().partition(BY_GRAPH[graph])[2]
    head = "| input | type and shape | meaning |"
    explained = lines_of_table(text[: text.index(head) + 5000].replace(head, "|#|", 1), "|#|")
    in_int8 = set(CODE_INPUTS) if graph == "sequence" else set()
    inputs = {tensor["name"]: tensor["dtype"] for tensor in manifest["graphs"][graph]["inputs"]}
    assert inputs.keys() | in_int8 == explained.keys()
    for name, dtype in inputs.items():
        assert explained[name].split("|")[2].strip().startswith(dtype), name
    after = text[text.index("Outputs: ") :][:700]
    outputs = {tensor["name"] for tensor in manifest["graphs"][graph]["outputs"]}
    assert outputs <= {*NAME.findall(after)}


def test_the_inputs_of_the_encoders_are_explained(manifest: dict[str, Any]) -> None:
    named = {*NAME.findall(readme())}
    for graph in ("image_encoder", "text_encoder"):
        spec = manifest["graphs"][graph]
        assert {tensor["name"] for tensor in [*spec["inputs"], *spec["outputs"]]} <= named


def test_a_size_that_may_vary_is_in_the_legend(manifest: dict[str, Any]) -> None:
    legend = readme().partition("| | is |")[2].partition("\n\n")[0]
    letters = set(
        re.findall(r"\b[A-Za-z]\b", " ".join(n.split("|")[1] for n in legend.splitlines()[2:]))
    )
    shapes = [
        size
        for graph in manifest["graphs"].values()
        for tensor in [*graph["inputs"], *graph["outputs"]]
        for size in tensor["shape"]
        if isinstance(size, str)
    ]
    assert set(shapes) <= letters
