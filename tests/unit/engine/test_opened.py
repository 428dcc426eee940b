import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import Shop, graph_spec, manifest_of, seal

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import Manifest, TensorSpec
from mmsr.engine.opened import open_bundle


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as refused:
        open_bundle(folder)
    return str(refused.value)


def test_an_undamaged_bundle_opens(shop: Shop) -> None:
    bundle = open_bundle(shop.folder)
    assert len(bundle.catalogue) == shop.sizes.items
    assert bundle.item_inputs_CW.shape == (shop.sizes.capacity, 20)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [(truncate, "the file was cut"), (flip, "SHA-256"), (Path.unlink, "is missing")],
)
@pytest.mark.parametrize(
    "name", ["sequence.onnx", "tables/item_outputs.npy", "catalogue.parquet", "probe.npz"]
)
def test_a_damaged_file_is_named(
    copy: Path, name: str, damage: Callable[[Path], None], complaint: str
) -> None:
    damage(copy / name)
    text = refusal(copy)
    assert str(copy / name) in text
    assert complaint in text


def test_an_edited_manifest_is_refused(copy: Path) -> None:
    raw = json.loads((copy / "manifest.json").read_text())
    raw["exclude_seen"] = False
    (copy / "manifest.json").write_text(json.dumps(raw))
    assert "the file was damaged or edited" in refusal(copy)
    del raw["checksum"]
    (copy / "manifest.json").write_text(json.dumps(raw))
    assert "the manifest was edited" in refusal(copy)


def resealed(copy: Path, shop: Shop, change: Callable[[Manifest], Manifest]) -> str:
    (copy / "manifest.json").unlink()
    seal(copy, change(manifest_of(shop.sizes)))
    return refusal(copy)


def test_a_catalogue_of_another_size_is_refused(copy: Path, shop: Shop) -> None:
    def fewer(manifest: Manifest) -> Manifest:
        return replace(manifest, tables=replace(manifest.tables, items=299))

    text = resealed(copy, shop, fewer)
    assert "catalogue.parquet: 300 items, the manifest says 299" in text


def test_tables_without_a_row_for_every_item_are_refused(copy: Path, shop: Shop) -> None:
    def full(manifest: Manifest) -> Manifest:
        return replace(manifest, tables=replace(manifest.tables, capacity=300))

    assert "300 items in tables of 300 rows" in resealed(copy, shop, full)


def test_a_table_of_another_shape_is_refused(copy: Path, shop: Shop) -> None:
    np.save(copy / "tables" / "item_outputs.npy", np.zeros((384, 15), np.float32))
    text = resealed(copy, shop, lambda manifest: manifest)
    assert "item_outputs.npy: float32 [384, 15], the manifest says float32 [384, 16]" in text


def test_a_table_of_another_type_is_refused(copy: Path, shop: Shop) -> None:
    np.save(copy / "tables" / "item_outputs.npy", np.zeros((384, 16), np.float64))
    assert "float64 [384, 16]" in resealed(copy, shop, lambda manifest: manifest)


def test_a_pickle_in_place_of_a_table_is_refused(copy: Path, shop: Shop) -> None:
    objects: Any = np.array([{"a": 1}], dtype=object)
    np.save(copy / "tables" / "item_outputs.npy", objects, allow_pickle=True)
    assert "item_outputs.npy is unreadable" in resealed(copy, shop, lambda manifest: manifest)


def test_a_missing_table_is_refused_although_the_manifest_agrees(copy: Path, shop: Shop) -> None:
    (copy / "tables" / "item_inputs.npy").unlink()
    text = resealed(copy, shop, lambda manifest: manifest)
    assert "item_inputs.npy: not in the manifest" in text


def test_a_graph_with_another_contract_is_refused(copy: Path, shop: Shop) -> None:
    inputs = (*graph_spec().inputs, TensorSpec(name="mood", dtype="int64", shape=("B",)))

    def moody(manifest: Manifest) -> Manifest:
        return replace(manifest, graphs={"sequence": replace(graph_spec(), inputs=inputs)})

    text = resealed(copy, shop, moody)
    assert "input 'mood'" in text
    assert "expects none of that name" in text


def test_a_bundle_without_a_sequence_graph_is_refused(copy: Path, shop: Shop) -> None:
    text = resealed(copy, shop, lambda manifest: replace(manifest, graphs={}))
    assert "no graph 'sequence'" in text


@pytest.mark.parametrize("item_id", ["", "x" * 513])
def test_an_id_that_no_request_may_hold_is_refused(copy: Path, shop: Shop, item_id: str) -> None:
    catalogue = load_catalogue(copy)
    replace(catalogue, item_ids=[item_id, *catalogue.item_ids[1:]]).save(copy)
    text = resealed(copy, shop, lambda manifest: manifest)
    assert "expected 1 to 512 bytes" in text
