"""Every number of an encoder's graph that its weights should have is compared with them."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from support.tiny_bundle import publish
from torch import nn

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export.encoder_weights import WeightsCheck, compare_weights, known_weights
from mmsr.export.onnx_file import Port, convert

CHANNELS = 4


class Encoder(nn.Module):
    """What encoders are made of: convolutions with and without a normalisation, products."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(3, CHANNELS, 2)
        self.bare = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.project = nn.Linear(CHANNELS, 5)
        self.square = nn.Linear(5, 5)
        self.last = nn.LayerNorm(5)
        self.zeros = nn.Parameter(torch.zeros(5))

    def forward(self, pixels_B3HW: torch.Tensor) -> torch.Tensor:
        """Return features [B, 5]."""
        maps = self.norm(self.bare(self.plain(pixels_B3HW).relu()))
        features_B5: torch.Tensor = self.square(self.project(maps.relu().mean(dim=(2, 3))))
        moved_B5: torch.Tensor = self.last(features_B5) + self.zeros
        return moved_B5


def encoder(seed: int = 0) -> Encoder:
    """Return one whose every tensor differs from the others."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = Encoder()
        for name, tensor in [*made.named_parameters(), *made.named_buffers()]:
            if tensor.is_floating_point() and name != "zeros":
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return made.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "image_encoder.onnx"
    pixels = Port(name="pixels", example=torch.rand(2, 3, 6, 6), dynamic={0: "B"})
    convert(encoder(), [pixels], ["feature"], path)
    return path


def floats(path: Path) -> list[str]:
    """Return the initializers that hold several numbers."""
    tensors = onnx.load(path).graph.initializer
    return [
        t.name for t in tensors if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 1
    ]


def changed(path: Path, name: str, target: Path, change: Any) -> Path:
    """Write the graph with one initializer changed."""
    model = onnx.load(path)
    [tensor] = [t for t in model.graph.initializer if t.name == name]
    array = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    onnx.save(model, target)
    return target


def test_a_conversion_agrees_with_its_weights(graph: Path) -> None:
    found = compare_weights(graph, encoder(), "abc")
    assert (found.of, found.wrong, found.other) == ("abc", None, 0)
    assert found.fused == 2  # the weight and the bias of the convolution before the norm
    assert found.exact + found.fused == len(floats(graph)) > 8


def flip_one(array: Any) -> Any:
    array.flat[array.size // 2] *= -1
    return array


def nudge_one(array: Any) -> Any:
    array.flat[0] *= 1.001
    return array


def drop(array: Any) -> Any:
    return np.zeros_like(array)


def turn_round(array: Any) -> Any:
    return array[::-1]


@pytest.mark.parametrize("change", [flip_one, nudge_one, drop, turn_round])
def test_any_array_that_is_not_of_the_weights_is_named(
    graph: Path, tmp_path: Path, change: Any
) -> None:
    for name in floats(graph):
        before = numpy_helper.to_array(
            next(t for t in onnx.load(graph).graph.initializer if t.name == name)
        )
        if np.array_equal(change(before.copy()), before):  # all zeros
            continue
        bad = changed(graph, name, tmp_path / "bad.onnx", change)
        assert compare_weights(bad, encoder()).wrong == name, name


def test_weights_of_another_training_are_found(graph: Path) -> None:
    assert compare_weights(graph, encoder(seed=1)).wrong is not None


def test_a_matrix_that_is_the_wrong_way_round_is_found(graph: Path, tmp_path: Path) -> None:
    """Where the name says which tensor it is, the order of its axes is the tensor's."""
    bad = changed(graph, "plain.weight", tmp_path / "bad.onnx", lambda a: a.transpose(0, 1, 3, 2))
    assert compare_weights(bad, encoder()).wrong == "plain.weight"


def test_bundles_say_what_was_compared_and_wrong_ones_are_not_believed(tmp_path: Path) -> None:
    repository = Repository(publish(tmp_path / "repository").root)
    assert known_weights(repository) == {}
    folder = repository.path(repository.ids()[0])
    right, wrong = WeightsCheck(of="abc", exact=9), WeightsCheck(of="abd", exact=8, wrong="bias")
    checks = {"image_encoder": asdict(right), "text_encoder": asdict(wrong)}
    replace(load_manifest(folder), parity={"stored": {"encoder_weights": checks}}).save(folder)
    assert known_weights(repository) == {"abc": right}
