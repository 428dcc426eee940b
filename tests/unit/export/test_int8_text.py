"""The text encoder in int8: what is written, and what a bundle then says of itself."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.tiny_bundle import Sizes, make_twin, manifest_of, seal, write_files

from mmsr.bundle.manifest import load_manifest, verify_files
from mmsr.engine.encoders import text_precision_of
from mmsr.export.initializers import digest_of, initializer_hashes
from mmsr.export.int8_text import install_int8_text, write_int8_text
from mmsr.export.onnx_file import describe
from mmsr.export.precision import PrecisionError

WIDTH = 48


def write_product(path: Path, op: str = "MatMul") -> Path:
    """Write x [n, WIDTH] -> feature; a product with weights whose largest pairs would saturate."""
    weight_FF = np.random.default_rng(0).choice([-1.0, 1.0], (WIDTH, WIDTH)).astype(np.float32)
    weight_FF[:, 0] = 1.0
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "weight"], ["feature"])],
        "text",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("feature", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(weight_FF, "weight")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, path)
    return path


def features(path: Path, x_nF: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> list[float]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    found: list[float] = session.run(None, {"x": x_nF})[0].ravel().tolist()
    return found


def test_products_are_near_and_the_largest_do_not_saturate(tmp_path: Path) -> None:
    path = write_product(tmp_path / "fp32.onnx")
    write_int8_text(path, tmp_path / "int8.onnx")
    x_nF = np.ones((2, WIDTH), np.float32)
    x_nF[1] = np.linspace(-1, 1, WIDTH)
    wanted, found = features(path, x_nF), features(tmp_path / "int8.onnx", x_nF)
    np.testing.assert_allclose(found, wanted, atol=0.02 * WIDTH)  # a step of either is 1/64
    assert found != wanted


def test_an_encoder_without_a_product_with_weights_is_refused(tmp_path: Path) -> None:
    path = write_product(tmp_path / "sum.onnx", "Add")
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones(WIDTH, np.float32), "weight")
    )
    onnx.save(model, path)
    with pytest.raises(PrecisionError, match=r"sum\.onnx: no product with weights"):
        write_int8_text(path, tmp_path / "int8.onnx")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle with a text encoder."""
    folder, sizes = tmp_path / "bundle", Sizes()
    write_files(folder, make_twin(sizes), sizes)
    path = write_product(folder / "text_encoder.onnx")
    manifest = manifest_of(sizes)
    provenance = {
        "initializers": {"text_encoder": digest_of(initializer_hashes(path))},
        "made_from": {"text_encoder": {"spec": "one"}},
    }
    graphs = manifest.graphs | {"text_encoder": describe(path)}
    seal(folder, replace(manifest, graphs=graphs, provenance=provenance))
    return folder


def test_a_bundle_says_that_its_text_encoder_is_int8_and_stays_whole(
    bundle: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "of-another-bundle.onnx"
    os.link(bundle / "text_encoder.onnx", shared)
    before = shared.read_bytes()
    assert text_precision_of(load_manifest(bundle)) == "fp32"
    install_int8_text(bundle)
    manifest = load_manifest(bundle)
    verify_files(bundle, manifest)
    assert text_precision_of(manifest) == "int8"
    assert manifest.provenance["made_from"]["text_encoder"] == {"spec": "one", "precision": "int8"}
    found = digest_of(initializer_hashes(bundle / "text_encoder.onnx"))
    assert manifest.provenance["initializers"]["text_encoder"] == found
    assert shared.read_bytes() == before


def test_a_run_without_texts_has_nothing_to_write_in_int8(tmp_path: Path) -> None:
    folder, sizes = tmp_path / "bundle", Sizes()
    write_files(folder, make_twin(sizes), sizes)
    seal(folder, manifest_of(sizes))
    with pytest.raises(PrecisionError, match="no text encoder; export without --text-precision"):
        install_int8_text(folder)
