from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_bundle import Shop, seal
from support.tiny_explain import SHARES, add_explain, explain_spec, explained_manifest

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import NotExplainable
from mmsr.engine.explain import Explainer, assemble
from mmsr.engine.model import RowRequest, SequenceModel, open_model
from mmsr.engine.opened import open_bundle
from mmsr.engine.runners.base import AnyArray, Runner

SCORE_ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders; measured below 1e-5
HISTORY, ROWS = [7, 3, 7, 12], [20, 5, 7]


@pytest.fixture
def explained(copy: Path, shop: Shop) -> Iterator[SequenceModel]:
    add_explain(copy, shop.sizes)
    opened = open_model(copy, threads=1)
    yield opened
    opened.close()


def scores(shop: Shop, history: list[int]) -> list[float]:
    found: list[float] = (shop.twin.outputs_CD[ROWS] @ shop.twin.state(history)).tolist()
    return found


def test_each_item_and_each_source_is_left_out_once(explained: SequenceModel, shop: Shop) -> None:
    found = explained.explain(HISTORY, ROWS)
    whole = scores(shop, HISTORY)
    assert [item.row for item in found.items] == ROWS
    assert [item.score for item in found.items] == pytest.approx(whole, abs=SCORE_ATOL)
    for place in range(len(HISTORY)):
        shorter = scores(shop, HISTORY[:place] + HISTORY[place + 1 :])
        changes = [item.history_changes[place] for item in found.items]
        wanted = [a - b for a, b in zip(shorter, whole, strict=True)]
        assert changes == pytest.approx(wanted, abs=SCORE_ATOL)
    for item, score in zip(found.items, whole, strict=True):
        assert [*item.source_changes] == ["id", "position", "text"]
        wanted = [-share * score for share in SHARES.values()]
        assert [*item.source_changes.values()] == pytest.approx(wanted, abs=SCORE_ATOL)
    assert found.attention == pytest.approx([0.25] * 4)


def test_the_score_is_the_one_that_is_recommended(explained: SequenceModel) -> None:
    [answer] = explained.recommend([RowRequest(HISTORY, [], 10)])
    found = explained.explain(HISTORY, answer.rows)
    assert [item.score for item in found.items] == pytest.approx(answer.scores, abs=SCORE_ATOL)


def test_of_a_history_of_one_item_nothing_is_left_out_but_sources(
    explained: SequenceModel,
) -> None:
    found = explained.explain([4], ROWS)
    assert found.attention == (1.0,)
    assert {item.history_changes for item in found.items} == {()}
    assert all(len(item.source_changes) == 3 for item in found.items)


class Counting:
    """A runner that keeps what it is asked."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.name, self.spec = runner, runner.name, runner.spec
        self.batches: list[Mapping[str, AnyArray]] = []
        self.closed = False

    def bind(self, name: str, array: AnyArray) -> None:
        self.runner.bind(name, array)

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        raise AssertionError("not called")

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        self.batches.append(batch)
        return self.runner.run(batch)

    def close(self) -> None:
        self.closed = True


def test_one_batch_holds_all_variants(explained: SequenceModel) -> None:
    counting = Counting(explained.explainer.runner())
    explainer = Explainer(explained.bundle, lambda: counting)
    explainer.explain(HISTORY, ROWS)
    [batch] = counting.batches
    assert batch["history"].tolist() == [
        [7, 3, 7, 12],
        [3, 7, 12, 0],
        [7, 7, 12, 0],
        [7, 3, 12, 0],
        [7, 3, 7, 0],
        *[[7, 3, 7, 12]] * 3,
    ]
    assert batch["length"].tolist() == [4, 3, 3, 3, 3, 4, 4, 4]
    assert batch["candidates"].tolist() == [ROWS] * 8
    out = [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert batch["switches"].tolist() == [*[[1, 1, 1]] * 5, *out]
    explainer.close()
    assert counting.closed


def test_the_graph_is_loaded_by_the_first_question_and_once(explained: SequenceModel) -> None:
    explained.recommend([RowRequest(HISTORY, [], 3)])
    assert not explained.explainer.loaded
    explained.explain(HISTORY, ROWS)
    runner = explained.explainer.runner()
    explained.explain(HISTORY, ROWS)
    assert explained.explainer.runner() is runner
    explained.explainer.close()
    assert not explained.explainer.loaded


def test_an_older_bundle_serves_and_says_that_it_cannot_explain(model: SequenceModel) -> None:
    assert model.recommend([RowRequest(HISTORY, [], 3)])[0].rows
    with pytest.raises(NotExplainable, match=rf"{model.version} was exported without explain.onnx"):
        model.explain(HISTORY, ROWS)


def test_inputs_are_as_the_graph_wants_them() -> None:
    batch = assemble([1, 2], [3], 2)
    types = {tensor.name: (tensor.dtype, len(tensor.shape)) for tensor in explain_spec().inputs}
    for name, array in batch.items():
        assert (str(array.dtype), array.ndim) == types[name]
        assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda spec: replace(spec, outputs=spec.outputs[:1]), "output 'attention'"),
        (lambda spec: replace(spec, inputs=spec.inputs[1:]), "input 'history'"),
        (lambda spec: replace(spec, file="other.onnx"), "other.onnx: not in the manifest"),
    ],
)
def test_another_contract_is_refused_when_the_bundle_is_opened(
    copy: Path, shop: Shop, change: Callable[[GraphSpec], GraphSpec], complaint: str
) -> None:
    add_explain(copy, shop.sizes)
    manifest = explained_manifest(shop.sizes)
    (copy / "manifest.json").unlink()
    seal(copy, replace(manifest, graphs={**manifest.graphs, "explain": change(explain_spec())}))
    with pytest.raises(BundleError, match=complaint):
        open_bundle(copy)


def test_switches_that_are_not_the_models_sources_are_refused(copy: Path, shop: Shop) -> None:
    add_explain(copy, shop.sizes)
    (copy / "manifest.json").unlink()
    seal(copy, replace(explained_manifest(shop.sizes), model={"sources": ["text", "id"]}))
    with pytest.raises(BundleError, match="3 switches for the sources id, text"):
        open_bundle(copy)
