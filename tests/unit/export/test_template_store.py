"""Templates are kept by what they follow from; a damaged one is none."""

import os
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from mmsr.export.template import Source, Template
from mmsr.export.template_store import KEPT, TemplateStore, source_hash


def template(name: str = "graph") -> Template:
    values = [helper.make_tensor_value_info(v, TensorProto.FLOAT, ["B"]) for v in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], name, values[:1], values[1:]
    )
    return Template(
        graph=helper.make_model(graph), sources={"w": Source(tensor="weight", axes=(1, 0))}
    )


@pytest.fixture
def store(tmp_path: Path) -> TemplateStore:
    return TemplateStore(root=tmp_path)


def save(store: TemplateStore, graph: str, key: str, name: str = "graph") -> None:
    store.save(graph, key, template(name), store.root / "spare")


def test_what_was_kept_is_found_by_graph_and_key(store: TemplateStore) -> None:
    assert store.load("item", "abc") is None
    save(store, "item", "abc")
    found = store.load("item", "abc")
    assert found is not None
    assert found.sources == template().sources
    assert found.graph == template().graph
    assert store.load("item", "abd") is None
    assert store.load("sequence", "abc") is None
    assert [path.name for path in store.root.iterdir()] == ["templates"]


def test_a_damaged_template_is_none(store: TemplateStore) -> None:
    save(store, "item", "abc")
    [path] = store.folder.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-3], content.replace(b"weight", b"weighT"), b""):
        path.write_bytes(damaged)
        assert store.load("item", "abc") is None
    path.write_bytes(content)
    assert store.load("item", "abc") is not None


def test_a_fresh_export_reads_none_and_keeps_its_own(store: TemplateStore) -> None:
    fresh = TemplateStore(root=store.root, fresh=True)
    save(fresh, "item", "abc")
    assert fresh.load("item", "abc") is None
    assert store.load("item", "abc") is not None


def test_templates_that_have_not_been_used_for_long_are_removed(store: TemplateStore) -> None:
    save(store, "explain", "other")
    for number in range(KEPT):
        save(store, "item", f"key{number}")
        [path] = store.folder.glob(f"item-key{number}-*")
        os.utime(path, (number, number))
    assert store.load("item", "key0") is not None  # and so it is the last used
    save(store, "item", "new")
    kept = {path.name.split("-")[1] for path in store.folder.glob("item-*")}
    assert kept == {"key0", "new"} | {f"key{n}" for n in range(2, KEPT)}
    assert store.load("explain", "other") is not None


def test_a_key_follows_from_graph_and_architecture(store: TemplateStore) -> None:
    keys = {
        store.key("item", {"width": 8}),
        store.key("item", {"width": 9}),
        store.key("explain", {"width": 8}),
    }
    assert len(keys) == 3
    assert store.key("item", {"width": 8}) in keys
    assert len(source_hash()) == 64
