from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop, make_twin, manifest_of, seal

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.model import RowRequest, SequenceModel
from mmsr.engine.probe import (
    FP32_TOLERANCE,
    ProbeReport,
    ProbeSet,
    load_probe,
    probe_runner,
    prove,
    run_probe,
)
from mmsr.engine.runners.base import AnyArray, Runner

Change = Callable[[dict[str, AnyArray], Mapping[str, AnyArray]], None]


class ChangedRunner:
    """A real runner whose outputs are changed before anyone sees them."""

    def __init__(self, inner: Runner, change: Change) -> None:
        self._inner = inner
        self._change = change
        self.name = "changed"

    @property
    def spec(self) -> GraphSpec:
        return self._inner.spec

    def bind(self, name: str, array: AnyArray) -> None:
        self._inner.bind(name, array)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        outputs = self._inner.run(batch)
        self._change(outputs, batch)
        return outputs

    def close(self) -> None:
        self._inner.close()


def changed(model: SequenceModel, change: Change) -> ProbeReport:
    return prove(SequenceModel(model.bundle, ChangedRunner(model.runner, change)))


def test_a_runner_that_agrees_passes_with_its_numbers(shop: Shop) -> None:
    report = run_probe(shop.folder)
    report.check()
    assert (report.users, report.k, report.overlap, report.worst_overlap) == (40, 20, 1.0, 1.0)
    assert 0 < report.max_abs_error < 1e-5
    assert 0 < report.max_error < FP32_TOLERANCE / 10
    assert report.ndcg == report.ndcg_reference


def test_the_probe_leaves_the_availability_as_it_was(model: SequenceModel, shop: Shop) -> None:
    request = RowRequest([1, 2], [], shop.sizes.items)
    before = model.recommend([request])
    prove(model)
    assert model.recommend([request]) == before
    assert len(before[0].rows) == int(shop.twin.available_N.sum())


def test_ndcg_is_that_of_the_targets(model: SequenceModel, shop: Shop) -> None:
    probe = load_probe(shop.folder, shop.sizes.items)
    places = np.arange(40) % 3
    hit = replace(probe, target_P=probe.top_rows_PK[np.arange(40), places])
    report = probe_all(model, hit)
    wanted = np.mean([[1.0, 1 / np.log2(3), 0.5][place] for place in places])
    assert report.ndcg == pytest.approx(wanted)
    assert report.ndcg_reference == pytest.approx(wanted)


def probe_all(model: SequenceModel, probe: ProbeSet) -> ProbeReport:
    items = model.bundle.manifest.tables.items
    model.bind_eligible(np.ones(items, np.bool_))
    return probe_runner(model.runner, probe, model.bundle.item_outputs_CD, items)


def test_near_ties_may_swap(model: SequenceModel, shop: Shop) -> None:
    """An item just outside PyTorch's top 20, but within the tolerance of the 20th, is right."""
    probe = load_probe(shop.folder, shop.sizes.items)
    shifted = probe.top_scores_PK.copy()
    shifted[:, -1] += 0.5 * FP32_TOLERANCE
    assert probe_all(model, replace(probe, top_scores_PK=shifted)).overlap == 1.0
    shifted[:, -1] += 100 * FP32_TOLERANCE
    assert probe_all(model, replace(probe, top_scores_PK=shifted)).overlap < 1.0


def one_wrong_item(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][0, -1] = 1 + outputs["rows"][0, 0] % 300


def the_best_item_twice(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    for name in ("rows", "scores"):
        outputs[name][:, 1] = outputs[name][:, 0]


def padding_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3] = 0


def spare_row_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3] = 310


def wild_row_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3] = 10**9


@pytest.mark.parametrize(
    "change",
    [one_wrong_item, the_best_item_twice, padding_returned, spare_row_returned, wild_row_returned],
)
def test_wrong_items_are_caught(model: SequenceModel, change: Change) -> None:
    report = changed(model, change)
    assert report.overlap < 1.0
    with pytest.raises(ProbeFailed, match=r"overlap@20 0\.9\d+, at least 1 expected"):
        report.check()


def scaled(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["scores"] *= 1.001


def not_a_number(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["scores"][0, 0] = np.nan


@pytest.mark.parametrize("change", [scaled, not_a_number])
def test_wrong_scores_of_the_right_items_are_caught(model: SequenceModel, change: Change) -> None:
    report = changed(model, change)
    assert report.overlap == 1.0
    with pytest.raises(ProbeFailed, match="score error"):
        report.check()


def depends_on_company(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    if len(batch["length"]) == 1:
        outputs["scores"] += 0.01


def depends_on_padding(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    if len(batch["length"]) < 40 and batch["history"].shape[1] > batch["length"].min():
        outputs["scores"] += 0.01


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(depends_on_company, "alone against batched"), (depends_on_padding, "padded against")],
)
def test_answers_that_depend_on_the_rest_of_the_batch_are_caught(
    model: SequenceModel, change: Change, complaint: str
) -> None:
    with pytest.raises(ProbeFailed, match=complaint):
        changed(model, change).check()


def test_tables_of_another_training_are_caught(copy: Path, shop: Shop) -> None:
    other = make_twin(shop.sizes, seed=9)
    np.save(copy / "tables" / "item_inputs.npy", other.inputs_CW)
    (copy / "manifest.json").unlink()
    seal(copy, manifest_of(shop.sizes))
    report = run_probe(copy)
    assert report.overlap < 0.5
    with pytest.raises(ProbeFailed, match="does not answer like PyTorch on 40 probe users"):
        report.check()


def test_output_rows_in_another_order_are_caught(copy: Path, shop: Shop) -> None:
    path = copy / "tables" / "item_outputs.npy"
    rows_CD = np.load(path)
    rows_CD[1 : shop.sizes.items + 1] = np.roll(rows_CD[1 : shop.sizes.items + 1], 1, axis=0)
    np.save(path, rows_CD)
    (copy / "manifest.json").unlink()
    seal(copy, manifest_of(shop.sizes))
    with pytest.raises(ProbeFailed, match="output table against PyTorch's scores"):
        run_probe(copy).check()


def probe_refusal(folder: Path, shop: Shop, **change: AnyArray) -> str:
    with np.load(folder / "probe.npz") as saved:
        arrays = {**saved, **change}
    arrays = {name: array for name, array in arrays.items() if len(array)}
    with (folder / "probe.npz").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(BundleError) as refused:
        load_probe(folder, shop.sizes.items)
    return str(refused.value)


def test_a_probe_set_without_states_is_refused(copy: Path, shop: Shop) -> None:
    assert "state" in probe_refusal(copy, shop, state=np.zeros(0))


def test_a_probe_set_with_a_wild_row_is_refused(copy: Path, shop: Shop) -> None:
    text = probe_refusal(copy, shop, history=np.full((40, 12), 301))
    assert "rows outside 0 to 300" in text


def test_a_probe_set_with_an_empty_history_is_refused(copy: Path, shop: Shop) -> None:
    text = probe_refusal(copy, shop, length=np.zeros(40, np.int64))
    assert "a length is outside 1 to 12" in text


def test_a_probe_set_of_another_type_is_refused(copy: Path, shop: Shop) -> None:
    text = probe_refusal(copy, shop, state=np.zeros((40, 16), np.float64))
    assert "state_PD is float64 [40, 16] for 40 users" in text


def test_a_file_that_is_no_probe_set_is_refused(copy: Path, shop: Shop) -> None:
    (copy / "probe.npz").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(BundleError, match=r"probe\.npz is unreadable"):
        load_probe(copy, shop.sizes.items)
