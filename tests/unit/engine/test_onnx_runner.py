from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import Shop, Sizes, graph_spec

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec, TensorSpec
from mmsr.engine.model import RowRequest, SequenceModel, assemble
from mmsr.engine.runners.onnx import open_onnx

WIDTH = Sizes.width


def changed(name: str, **change: Any) -> GraphSpec:
    spec = graph_spec()
    inputs = tuple(replace(t, **change) if t.name == name else t for t in spec.inputs)
    return replace(spec, inputs=inputs)


def refusal(folder: Path, spec: GraphSpec) -> str:
    with pytest.raises(BundleError) as refused:
        open_onnx(folder / "sequence.onnx", spec, threads=1)
    return str(refused.value)


def test_the_name_says_which_provider_computes(model: SequenceModel) -> None:
    assert model.runner.name == "ONNX Runtime CPUExecutionProvider"


def test_another_type_than_the_manifest_says_is_refused(shop: Shop) -> None:
    text = refusal(shop.folder, changed("history", dtype="int32"))
    assert "input 'history' is int64 [?, ?], the manifest says int32 [?, ?]" in text


def test_a_fixed_size_where_the_graph_has_a_free_one_is_refused(shop: Shop) -> None:
    text = refusal(shop.folder, changed("item_inputs", shape=("C", 3)))
    assert "input 'item_inputs'" in text
    assert "float32 [?, 3]" in text


def test_the_name_of_a_free_size_does_not_matter(shop: Shop) -> None:
    spec = changed("history", shape=("batch", "length"))
    open_onnx(shop.folder / "sequence.onnx", spec, threads=1).close()


def test_an_input_that_the_graph_lacks_is_refused(shop: Shop) -> None:
    spec = graph_spec()
    more = (*spec.inputs, TensorSpec(name="mood", dtype="int64", shape=("B",)))
    text = refusal(shop.folder, replace(spec, inputs=more))
    assert "input 'mood' is not there" in text


def test_an_input_that_the_manifest_lacks_is_refused(shop: Shop) -> None:
    spec = graph_spec()
    text = refusal(shop.folder, replace(spec, inputs=spec.inputs[1:]))
    assert "the manifest says there is none" in text


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sequence.onnx").write_bytes(b"no graph at all")
    assert "sequence.onnx cannot be loaded" in refusal(tmp_path, graph_spec())


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((5, WIDTH), np.float64), "float64"),
        (np.zeros(5, np.float32), r"\[5\]"),
        (np.zeros((WIDTH, 5), np.float32).T, "not contiguous"),
    ],
)
def test_a_table_of_the_wrong_kind_cannot_be_bound(
    model: SequenceModel, array: Any, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        model.runner.bind("item_outputs", array)


def test_bound_memory_is_used_in_place(model: SequenceModel, shop: Shop) -> None:
    table_CD = np.zeros((shop.sizes.capacity, shop.sizes.width), np.float32)
    model.runner.bind("item_outputs", table_CD)
    batch = assemble([RowRequest([1, 2], [], 1)])
    state_D = model.runner.run(batch)["states"][0]
    table_CD[17] = state_D
    outputs = model.runner.run(batch)
    assert outputs["rows"].tolist() == [[17]]
    assert outputs["scores"][0, 0] == pytest.approx(float(state_D @ state_D))


def test_an_output_outlives_the_next_run(model: SequenceModel) -> None:
    first = model.runner.run(assemble([RowRequest([1, 2], [], 4)]))["rows"]
    before = first.copy()
    model.runner.run(assemble([RowRequest([9], [], 4)]))
    assert (first == before).all()
    assert model.runner.run(assemble([RowRequest([9], [], 7)]))["rows"].shape == (1, 7)
