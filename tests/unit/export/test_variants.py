"""A bundle rewritten in another precision: its files, its answers, and the way back."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import Shop, publish

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import load_manifest, verify_files
from mmsr.engine.model import RowRequest, open_model
from mmsr.engine.opened import open_bundle
from mmsr.engine.precision import LIMITS, limits_of, precision_of
from mmsr.engine.probe import prove
from mmsr.export.build import Plan
from mmsr.export.constant_tables import write_constant_graph
from mmsr.export.precision import PrecisionError, half_nodes
from mmsr.export.provable import open_to_prove
from mmsr.export.tensorrt.engines import require_fp32
from mmsr.export.tensorrt.flavour import TensorRTError
from mmsr.export.variants import (
    PRECISIONS,
    Converted,
    count_wrong_codes,
    install,
    write_variant,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


def record(precision: str) -> dict[str, Any]:
    return {"asked": precision, "sequence": precision, "why": "", "race": {}, "refused": {}}


@pytest.fixture
def copy(shop: Shop, tmp_path: Path) -> Path:
    shutil.copytree(shop.folder, tmp_path / "bundle")
    return tmp_path / "bundle"


def fp32_graph(shop: Shop) -> Path:
    return shop.folder / "sequence.onnx"


def converted(shop: Shop) -> Converted:
    return Converted(path=fp32_graph(shop), weights=None)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_bundle_in_every_precision_is_whole_and_passes_its_probe(
    shop: Shop, copy: Path, precision: str
) -> None:
    install(copy, precision, converted(shop), record(precision))
    manifest = load_manifest(copy)
    verify_files(copy, manifest)
    assert precision_of(manifest) == precision
    model = open_to_prove(copy, threads=1)
    report = prove(model)
    model.close()
    assert report.precision == precision
    assert report.overlap > 0.99  # the twin's 300 items lie close together for bfloat16
    if precision != "bf16":
        report.check()
    assert ("emulated" in report.runner) == (precision == "bf16")


def test_int8_answers_filtered_requests_as_the_twin_does(shop: Shop, copy: Path) -> None:
    install(copy, "int8", converted(shop), record("int8"))
    model = open_model(copy, threads=1)
    twin = shop.twin
    asked = [RowRequest([3, 9, 14], [3, 9, 14], 20), RowRequest([5], list(range(1, 150)), 300)]
    for request, answer in zip(asked, model.recommend(asked), strict=True):
        ids = [twin.ids[row - 1] for row in request.history]
        barred = [twin.ids[row - 1] for row in request.excluded]
        wanted = twin.recommend(ids, request.k, barred)
        assert [twin.ids[row - 1] for row in answer.rows] == [item for item, _ in wanted]
        np.testing.assert_allclose(
            answer.scores, [score for _, score in wanted], rtol=1e-5, atol=1e-6
        )
    model.close()


def test_back_to_fp32_the_bundle_is_what_it_was(shop: Shop, copy: Path) -> None:
    before = load_manifest(copy)
    install(copy, "int8", converted(shop), record("int8"))
    changed = load_manifest(copy)
    assert {"tables/item_codes.npy", "tables/item_scales.npy"} <= set(changed.files)
    assert changed.bundle_id != before.bundle_id
    install(copy, "fp32", converted(shop), record("fp32"))
    assert load_manifest(copy).files == before.files
    verify_files(copy, load_manifest(copy))


def test_a_graph_that_another_bundle_shares_by_a_link_is_left_alone(
    shop: Shop, copy: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.onnx"
    os.link(copy / "sequence.onnx", other)
    install(copy, "fp16", converted(shop), record("fp16"))
    assert other.read_bytes() == fp32_graph(shop).read_bytes()
    assert set(half_nodes(copy / "sequence.onnx"))


def test_codes_that_do_not_follow_from_the_table_are_counted(shop: Shop, copy: Path) -> None:
    assert count_wrong_codes(copy, load_manifest(copy)) == 0
    install(copy, "int8", converted(shop), record("int8"))
    manifest = load_manifest(copy)
    assert count_wrong_codes(copy, manifest) == 0
    codes_DC = np.load(copy / "tables/item_codes.npy")
    codes_DC[:, [4, 9]] = -codes_DC[:, [4, 9]]
    np.save(copy / "tables/item_codes.npy", codes_DC)
    assert count_wrong_codes(copy, manifest) == 2


def test_an_unknown_precision_is_named_with_those_that_there_are(
    shop: Shop, tmp_path: Path
) -> None:
    with pytest.raises(PrecisionError, match="'int4'; expected one of fp32, fp16, bf16, int8"):
        write_variant("int4", fp32_graph(shop), tmp_path / "g.onnx", shop.folder)


def test_a_table_that_half_cannot_hold_is_refused(shop: Shop, copy: Path) -> None:
    table = np.load(copy / "tables/item_inputs.npy")
    table[5, 2] = 1e5
    np.save(copy / "tables/item_inputs.npy", table)
    with pytest.raises(PrecisionError, match=r"item_inputs\.npy holds 100000, fp16 at most 65504"):
        write_variant("fp16", fp32_graph(shop), copy.parent / "g.onnx", copy)


def test_every_precision_has_limits_and_an_unknown_one_the_strictest() -> None:
    assert tuple(LIMITS) == PRECISIONS
    assert limits_of("int4") == LIMITS["fp32"]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_triton_and_tensorrt_ask_for_fp32(shop: Shop, copy: Path, precision: str) -> None:
    install(copy, precision, converted(shop), record(precision))
    with pytest.raises(BundleError, match=f"is in {precision}, for Triton it must be in fp32"):
        write_constant_graph(open_bundle(copy), copy.parent / "g.onnx")
    with pytest.raises(TensorRTError, match=f"sequence graph is in {precision}, engines are built"):
        require_fp32("sequence", load_manifest(copy))
    require_fp32("item", load_manifest(copy))


def test_triton_is_told_at_once_that_it_takes_fp32(tmp_path: Path) -> None:
    with pytest.raises(PrecisionError, match="int8 for a Triton model repository, expected fp32"):
        Plan(precision="int8", triton=tmp_path)
