"""Filters through the exported graph, in both forms of its scoring, on some thousand items."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.random_bundle import Shape, write_bundle
from mmsr.engine.model import CategoryFilter, RowAnswer, RowRequest, SequenceModel, open_model
from mmsr.training.model import SequentialRecommender

SHAPE = Shape(items=3000, width=16, blocks=1, length=8, unavailable=0.2)
SHARES = (0.7, 0.3, 0.1, 0.02, 0.001)
ATOL = 1e-4  # of a score; PyTorch and ONNX Runtime sum in other orders


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The bundle as it serves, and what it was made from."""

    model: SequenceModel
    twin: SequentialRecommender
    categories_NS: npt.NDArray[np.bool_]

    def scores(self, request: RowRequest) -> npt.NDArray[np.float32]:
        """Return PyTorch's score of every row, -inf where a filter bars it: brute force."""
        bundle = self.model.bundle
        with torch.no_grad():
            state_1D = self.twin.last(
                torch.from_numpy(np.array(bundle.item_inputs_CW)),
                torch.tensor([request.history]),
                torch.tensor([len(request.history)]),
            )
        scores_C: npt.NDArray[np.float32] = bundle.item_outputs_CD @ state_1D[0].numpy()
        scores_C[~self.eligible(request)] = -np.inf
        return scores_C

    def eligible(self, request: RowRequest) -> npt.NDArray[np.bool_]:
        catalogue = self.model.bundle.catalogue
        passing_N = catalogue.available.copy()
        if not request.only_available:
            passing_N[:] = True
        if request.categories is not None:
            include, exclude = request.categories
            if include is not None:
                passing_N &= self.categories_NS[:, sorted(include)].any(axis=1)
            passing_N &= ~self.categories_NS[:, sorted(exclude)].any(axis=1)
        if request.allowed is not None:
            passing_N &= np.isin(np.arange(1, len(passing_N) + 1), request.allowed)
        passing_N &= ~np.isin(np.arange(1, len(passing_N) + 1), request.excluded)
        passing_C = np.zeros(self.model.bundle.manifest.tables.capacity, np.bool_)
        passing_C[1 : len(passing_N) + 1] = passing_N
        return passing_C


@pytest.fixture(scope="module", params=[False, True], ids=["flat", "chunked"])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    twin = write_bundle(folder, SHAPE, SHARES, chunked=request.param)
    model = open_model(folder, threads=1)
    index = model.filters.categories
    categories_NS = np.zeros((SHAPE.items, len(SHARES)), np.bool_)
    for share in SHARES:
        found = index.filter_of([f"{share:g}"], [])
        assert found is not None
        assert found.include is not None
        [number] = found.include
        has = [f"{share:g}" in names for names in model.bundle.catalogue.categories]
        categories_NS[:, number] = has
    yield Opened(model=model, twin=twin, categories_NS=categories_NS)
    model.close()


def check(opened: Opened, request: RowRequest, answer: RowAnswer) -> None:
    """As many as there can be, each of them right; equal scores may change places."""
    scores_C = opened.scores(request)
    wanted = -np.sort(-scores_C)[: min(request.k, int((scores_C > -np.inf).sum()))]
    assert len(set(answer.rows)) == len(answer.rows) == len(wanted)
    np.testing.assert_allclose(answer.scores, wanted, atol=ATOL)
    np.testing.assert_allclose(scores_C[answer.rows], wanted, atol=ATOL)


rows = st.integers(1, SHAPE.items)
seeds = st.integers(0, 2**32 - 1)
categories = st.frozensets(st.integers(0, len(SHARES) - 1), max_size=3)


@st.composite
def row_lists(draw: st.DrawFn, most: int) -> list[int]:
    """Draw a list of up to so many rows, of all sizes alike."""
    size = draw(st.integers(0, most) | st.integers(1, 30))
    random = np.random.default_rng(draw(seeds))
    listed: list[int] = (1 + random.permutation(SHAPE.items)[:size]).tolist()
    return listed


row_requests = st.builds(
    RowRequest,
    history=st.lists(rows, min_size=1, max_size=SHAPE.length),
    excluded=row_lists(1200),
    k=st.integers(1, 40) | st.integers(1, SHAPE.items),
    allowed=st.none() | row_lists(SHAPE.items),
    categories=st.none() | st.builds(CategoryFilter, st.none() | categories, categories),
    only_available=st.booleans(),
)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)  # the machine may be busy
@given(request=row_requests)
def test_a_thousand_filter_sets_are_answered_as_brute_force_does(
    opened: Opened, request: RowRequest
) -> None:
    """500 for each form of the scoring."""
    check(opened, request, *opened.model.recommend([request]))


@settings(max_examples=30, deadline=None)
@given(requests=st.lists(row_requests, min_size=2, max_size=8))
def test_each_request_of_a_mixed_batch_is_answered_as_if_alone(
    opened: Opened, requests: list[RowRequest]
) -> None:
    for request, answer in zip(requests, opened.model.recommend(requests), strict=True):
        check(opened, request, answer)


def test_an_allow_list_of_any_size_gives_all_that_it_can(opened: Opened) -> None:
    order = (1 + np.random.default_rng(0).permutation(SHAPE.items)).tolist()
    for size in (1, 2, 19, 20, 21, 64, 65, 500, 2999, 3000):
        request = RowRequest([7, 8], [], 20, allowed=order[:size], only_available=False)
        [answer] = opened.model.recommend([request])
        assert len(answer.rows) == min(20, size)
        check(opened, request, answer)
