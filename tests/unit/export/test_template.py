"""Which tensor of a module an initializer is: told by its bytes, refused where they do not tell."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from mmsr.export.initializers import arrays_of
from mmsr.export.onnx_file import ExportError
from mmsr.export.template import (
    NotATemplateError,
    Source,
    Template,
    Weights,
    find_sources,
    randomise,
    same_numbers,
    structure_of,
    tensors_of,
)


class Layer(nn.Module):
    """A matrix, its bias and a table that is computed when the module is made."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 2)
        self.shared = self.project
        self.register_buffer("table_1LH", torch.zeros(1, 4, 2))
        self.register_buffer("place_L", torch.arange(4))


def random_layer() -> Layer:
    layer = Layer()
    randomise(layer)
    return layer


def numbers(layer: Layer, name: str) -> npt.NDArray[Any]:
    return tensors_of(layer)[name].detach().numpy()


def graph_of(initializers: dict[str, npt.NDArray[Any]], node: Any = None) -> onnx.ModelProto:
    """Return a graph that holds these; `node` stands in it as well."""
    identity = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [identity, *([node] if node else [])],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def converted(layer: Layer) -> dict[str, npt.NDArray[Any]]:
    """Return what a conversion of a layer holds: weights in other orders and constants."""
    return {
        "val_1": np.ascontiguousarray(numbers(layer, "project.weight").T),
        "project.bias": numbers(layer, "project.bias"),
        "val_2": np.ascontiguousarray(numbers(layer, "table_1LH").transpose(2, 0, 1)),
        "epsilon": np.array(1e-5, np.float32),
        "places": np.arange(4),
    }


def template_of(layer: Layer) -> Template:
    model = graph_of(converted(layer))
    return Template(graph=model, sources=find_sources(model.graph, tensors_of(layer)))


def test_random_numbers_leave_integers_alone_and_no_two_tensors_alike() -> None:
    layer = random_layer()
    assert layer.get_buffer("place_L").tolist() == [0, 1, 2, 3]
    flat = torch.cat([tensor.flatten() for tensor in tensors_of(layer).values()])
    assert len(flat) == 6 + 2 + 8  # the shared layer counts once
    assert len(flat.unique()) == len(flat)


def test_initializers_are_found_in_any_order_of_axes() -> None:
    sources = template_of(random_layer()).sources
    assert sources["project.bias"] == Source(tensor="project.bias", axes=(0,))
    assert sources["val_1"] == Source(tensor="project.weight", axes=(1, 0))
    assert sources["val_2"].tensor == "table_1LH"
    assert sources.keys() == {"val_1", "val_2", "project.bias"}  # the rest are constants


def test_bytes_that_two_tensors_have_are_refused() -> None:
    layer = Layer()
    with torch.no_grad():
        layer.table_1LH = torch.zeros(1, 1, 2)
        layer.project.bias.zero_()
    model = graph_of({"val_1": np.zeros(2, np.float32)})
    with pytest.raises(NotATemplateError, match="may be any of"):
        find_sources(model.graph, tensors_of(layer))


def test_numbers_that_are_no_tensor_are_refused() -> None:
    layer = random_layer()
    doubled = graph_of({"val_1": 2 * numbers(layer, "project.bias")})
    with pytest.raises(NotATemplateError, match="val_1 is computed"):
        find_sources(doubled.graph, tensors_of(layer))
    value = numpy_helper.from_array(2 * numbers(layer, "project.bias"))
    inside = graph_of({}, helper.make_node("Constant", [], ["folded"], value=value))
    with pytest.raises(NotATemplateError, match="node folded"):
        find_sources(inside.graph, tensors_of(layer))


def test_a_single_weight_that_the_graph_does_not_show_is_refused() -> None:
    layer = random_layer()
    layer.temperature = nn.Parameter(torch.tensor(0.3))
    with pytest.raises(NotATemplateError, match="temperature"):
        find_sources(graph_of(converted(layer)).graph, tensors_of(layer))


def test_other_weights_are_written_in_the_order_that_was_found(tmp_path: Path) -> None:
    template, other = template_of(random_layer()), Layer()
    spec, weights = template.fill(other, tmp_path / "graph.onnx")
    held = arrays_of(tmp_path / "graph.onnx")
    assert spec.file == "graph.onnx"
    for name, wanted in converted(other).items():
        np.testing.assert_array_equal(held[name], wanted)
    assert Weights.from_json(weights.to_json()) == weights


def test_a_kept_template_is_the_same_and_fits_no_other_module(tmp_path: Path) -> None:
    template = template_of(random_layer())
    again = Template.from_bytes(template.to_bytes())
    layer = Layer()
    for path, one in ((tmp_path / "a", template), (tmp_path / "b", again)):
        one.fill(layer, path)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    layer.project = nn.Linear(4, 2)
    with pytest.raises(ExportError, match=r"expected float32 \[3, 2\]"):
        again.fill(layer, tmp_path / "c")
    with pytest.raises(ExportError, match=r"no tensor project\.weight"):
        again.fill(nn.Linear(3, 2), tmp_path / "c")


def test_the_structure_is_all_but_the_weights(tmp_path: Path) -> None:
    template = template_of(random_layer())
    path = tmp_path / "graph.onnx"
    _, first = template.fill(Layer(), path)
    _, second = template.fill(Layer(), path)
    assert first.structure == second.structure
    model = onnx.load(path)
    [epsilon] = [tensor for tensor in model.graph.initializer if tensor.name == "epsilon"]
    epsilon.CopyFrom(numpy_helper.from_array(np.array(1e-6, np.float32), "epsilon"))
    onnx.save(model, path)
    assert structure_of(path, template.sources) != first.structure
    template.fill(Layer(), path)
    model = onnx.load(path)
    model.graph.node[0].op_type = "Neg"
    onnx.save(model, path)
    assert structure_of(path, template.sources) != first.structure


def test_trained_numbers_are_compared_bit_by_bit_and_computed_ones_nearly() -> None:
    wanted = np.array([[0.5, -np.inf], [2.0, 0.0]], np.float32)
    near = wanted + np.float32(1e-6)
    assert same_numbers(wanted.reshape(4), wanted, 0.0)
    assert not same_numbers(near, wanted, 0.0)
    assert same_numbers(near, wanted, 1e-5)
    for wrong in (wanted + np.float32(1e-3), np.abs(wanted), wanted * np.float32(np.nan)):
        assert not same_numbers(wrong, wanted, 1e-5)
    assert not same_numbers(wanted[:1], wanted, 1e-5)
    assert not same_numbers(wanted.astype(np.float64), wanted, 1e-5)
