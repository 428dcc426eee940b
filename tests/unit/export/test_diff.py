"""How two bundles differ, against what is known of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Sizes, Twin, make_twin, manifest_of, seal, write_files

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.errors import BundleError
from mmsr.export.diff import diff_bundles, diff_catalogues

SIZES = Sizes(items=60, spare=4, width=8, extra_width=2, max_length=6, probes=30)


def write(folder: Path, twin: Twin, sizes: Sizes = SIZES, ndcg: float = 0.5) -> Path:
    write_files(folder, twin, sizes)
    seal(folder, replace(manifest_of(sizes), metrics={"test.masked.ndcg@10": ndcg}))
    return folder


def test_a_bundle_does_not_differ_from_itself(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", make_twin(SIZES))
    found = diff_bundles(folder, folder)
    assert (found.top_k.overlap, found.top_k.same_first) == (1.0, 1.0)
    assert found.top_k.rank_biased_overlap == pytest.approx(1.0)
    assert (found.top_k.users, found.top_k.skipped, found.top_k.k) == (30, 0, 20)
    assert found.catalogue.changed_rows == found.catalogue.added == found.catalogue.removed == 0


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    """The same model with its items in another order recommends the same items."""
    twin = make_twin(SIZES)
    order = np.random.default_rng(3).permutation(SIZES.items)
    rows = np.concatenate([[0], order + 1, np.arange(SIZES.items + 1, SIZES.capacity)])
    shuffled = replace(
        twin,
        ids=[twin.ids[n] for n in order],
        available_N=twin.available_N[order],
        popularity_N=twin.popularity_N[order],
        categories=[twin.categories[n] for n in order],
        inputs_CW=twin.inputs_CW[rows],
        outputs_CD=twin.outputs_CD[rows],
    )
    found = diff_bundles(write(tmp_path / "a", twin), write(tmp_path / "b", shuffled))
    assert found.top_k.overlap == 1.0
    assert found.catalogue.changed_rows == 0


def test_another_training_is_seen_in_answers_and_metrics(tmp_path: Path) -> None:
    a = write(tmp_path / "a", make_twin(SIZES))
    b = write(tmp_path / "b", make_twin(SIZES, seed=5), ndcg=0.25)
    found = diff_bundles(a, b)
    assert found.metrics == {"test.masked.ndcg@10": (0.5, 0.25)}
    assert 0.1 < found.top_k.overlap < 0.7  # 20 of 60 by chance: a third
    assert found.top_k.rank_biased_overlap < 0.8
    assert found.top_k.overlap_p10 <= found.top_k.overlap


def test_histories_without_any_item_of_the_other_are_skipped(tmp_path: Path) -> None:
    a, twin = write(tmp_path / "a", make_twin(SIZES)), make_twin(SIZES)
    renamed = [f"new-{n}" if n >= 5 else item_id for n, item_id in enumerate(twin.ids)]
    found = diff_bundles(a, write(tmp_path / "b", replace(twin, ids=renamed)))
    assert found.top_k.skipped > 0
    assert found.top_k.users + found.top_k.skipped == 30
    assert (found.catalogue.added, found.catalogue.removed) == (55, 55)
    assert found.catalogue.added_examples == [f"new-{n}" for n in range(5, 15)]
    other = replace(twin, ids=[f"other-{n}" for n in range(SIZES.items)])
    with pytest.raises(BundleError, match="different shops"):
        diff_bundles(a, write(tmp_path / "c", other))


def catalogue(*entries: tuple[str, str, list[str], bool, int]) -> Catalogue:
    ids, titles, categories, available, popularity = (list(c) for c in zip(*entries, strict=True))
    return Catalogue(
        item_ids=ids,
        titles=titles,
        categories=categories,
        available=np.array(available),
        popularity=np.array(popularity),
    )


def test_each_changed_field_is_counted() -> None:
    a = catalogue(
        ("same", "t", ["x", "y"], True, 1),
        ("sold", "t", ["x"], True, 1),
        ("titled", "t", ["x"], True, 1),
        ("gone", "t", [], True, 1),
    )
    b = catalogue(
        ("titled", "new", ["z"], False, 1),
        ("sold", "t", ["x"], True, 9),
        ("same", "t", ["y", "x"], True, 1),
        ("fresh", "t", [], True, 1),
    )
    found = diff_catalogues(a, b)
    assert found.changed == {"title": 1, "categories": 1, "available": 1, "popularity": 1}
    assert (found.changed_rows, found.changed_examples) == (1, ["titled"])
    assert (found.added_examples, found.removed_examples) == (["fresh"], ["gone"])
