"""Requests from a bundle's probe set, and rows drawn by popularity."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Twin

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.errors import BundleError
from mmsr.bundle.repository import Repository
from mmsr.engine.bench.histories import encode_requests, load_histories, popular_rows
from mmsr.v1.recommender_pb2 import RecommendRequest


def bundle_of(repository: Repository) -> Path:
    return repository.resolve("stable")


def test_histories_are_the_probe_sets(repository: Repository, twin: Twin) -> None:
    bundle = bundle_of(repository)
    with np.load(bundle / "probe.npz") as probe:
        rows, lengths = probe["history"].tolist(), probe["length"].tolist()
    assert load_histories(bundle) == [
        [twin.ids[row - 1] for row in line[:length]]
        for line, length in zip(rows, lengths, strict=True)
    ]


def test_requests_hold_the_histories_in_an_order_by_seed(repository: Repository) -> None:
    histories = load_histories(bundle_of(repository))
    requests = [RecommendRequest.FromString(r) for r in encode_requests(histories, 7, seed=3)]
    order = np.random.default_rng(3).permutation(5)
    assert [list(r.history) for r in requests] == [histories[i] for i in order]
    assert {r.k for r in requests} == {7}
    assert not any(r.HasField("exclude_seen") for r in requests)  # the bundle's own default


def catalogue_of(popularity: list[int]) -> Catalogue:
    count = len(popularity)
    return Catalogue(
        item_ids=[f"item-{n}" for n in range(count)],
        titles=[None] * count,
        categories=[[] for _ in range(count)],
        available=np.ones(count, np.bool_),
        popularity=np.array(popularity, np.int64),
    )


def test_an_item_is_drawn_as_often_as_it_is_popular() -> None:
    counts = Counter(popular_rows(catalogue_of([9, 0, 29]), (10_000,), seed=0).tolist())
    expected = {1: 10_000 * 10 / 41, 2: 10_000 / 41, 3: 10_000 * 30 / 41}
    assert counts.keys() == expected.keys()
    for row, count in expected.items():
        assert abs(counts[row] - count) < 5 * np.sqrt(count)


def test_an_empty_catalogue_is_one_line() -> None:
    with pytest.raises(BundleError, match="catalogue is empty"):
        popular_rows(catalogue_of([]), (3,), seed=0)
