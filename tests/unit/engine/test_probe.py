from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.tiny_bundle import Shop, Sizes, make_twin, manifest_of, publish, seal, write_files

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.items import rows_outside
from mmsr.engine.model import RowRequest, SequenceModel, open_model
from mmsr.engine.precision import FP32_TOLERANCE
from mmsr.engine.probe import ProbeReport, probe_runner, prove, run_probe
from mmsr.engine.probe_answers import bind_rows
from mmsr.engine.probe_set import ProbeSet, load_probe
from mmsr.engine.runners.base import AnyArray, Runner

Change = Callable[[dict[str, AnyArray], Mapping[str, AnyArray]], None]
Misread = Callable[[dict[str, AnyArray]], dict[str, AnyArray]]


def unchanged(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    pass


class ChangedRunner:
    """A real runner whose inputs are misread, or whose outputs are changed."""

    def __init__(self, inner: Runner, change: Change = unchanged, misread: Misread = dict) -> None:
        self._inner = inner
        self._change = change
        self._misread = misread
        self.name = "changed"

    @property
    def spec(self) -> GraphSpec:
        return self._inner.spec

    def bind(self, name: str, array: AnyArray) -> None:
        self._inner.bind(name, array)

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        self._inner.write_rows(name, rows, values, axis=axis)

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        outputs = self._inner.run(self._misread(dict(batch)))
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
    assert (report.ndcg_error, report.misordered) == (0.0, 0)
    assert (report.filtered.users, report.filtered.overlap) == (40, 1.0)
    assert 0 < report.filtered.max_error < FP32_TOLERANCE / 10


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
    bind_rows(model.runner, model.bundle.item_outputs_CD, items, {})
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
        outputs[name][:, 1:2] = outputs[name][:, :1]


def padding_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3:4] = 0


def spare_row_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3:4] = 310


def wild_row_returned(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    outputs["rows"][:, 3:4] = 10**9


@pytest.mark.parametrize(
    "change",
    [one_wrong_item, the_best_item_twice, padding_returned, spare_row_returned, wild_row_returned],
)
def test_wrong_items_are_caught(model: SequenceModel, change: Change) -> None:
    report = changed(model, change)
    assert report.overlap < 1.0
    with pytest.raises(ProbeFailed, match=r"overlap@20 0\.9\d+, at least 1 expected"):
        report.check()


def worst_first(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    for name in ("rows", "scores"):
        outputs[name] = np.ascontiguousarray(outputs[name][:, ::-1])


def two_neighbours_swapped(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    for name in ("rows", "scores"):
        outputs[name][:1, :2] = outputs[name][:1, 1::-1].copy()


@pytest.mark.parametrize("change", [worst_first, two_neighbours_swapped])
def test_the_right_items_in_another_order_are_caught(model: SequenceModel, change: Change) -> None:
    report = changed(model, change)
    assert (report.overlap, report.filtered.overlap) == (1.0, 1.0)
    with pytest.raises(ProbeFailed, match="places out of order"):
        report.check()


def test_an_order_that_moves_the_targets_is_caught(model: SequenceModel, shop: Shop) -> None:
    probe = load_probe(shop.folder, shop.sizes.items)
    second = replace(probe, target_P=probe.top_rows_PK[:, 1])
    runner = ChangedRunner(model.runner, worst_first)
    report = probe_all(SequenceModel(model.bundle, runner), second)
    assert report.ndcg_error == pytest.approx(1 / np.log2(3))  # every target has left the ten best
    with pytest.raises(ProbeFailed, match=r"NDCG@10 error 0\.631, at most 1e-09 allowed"):
        report.check()


def ties_the_other_way(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    for rows, scores in zip(outputs["rows"], outputs["scores"], strict=True):
        for place in range(0, len(rows) - 1, 2):
            if scores[place] == scores[place + 1] > -np.inf:
                rows[[place, place + 1]] = rows[[place + 1, place]]


def test_items_that_score_the_same_may_come_in_any_order(tmp_path: Path) -> None:
    """As items without any content do, which training has not seen."""
    sizes = Sizes()
    twin = make_twin(sizes)
    twin.outputs_CD[2 : sizes.items + 1 : 2] = twin.outputs_CD[1 : sizes.items : 2]
    write_files(tmp_path / "bundle", twin, sizes)
    seal(tmp_path / "bundle", manifest_of(sizes))
    model = open_model(tmp_path / "bundle", threads=1)
    probe = load_probe(tmp_path / "bundle", sizes.items)
    first = replace(probe, target_P=probe.top_rows_PK[:, 0])
    for change in (unchanged, ties_the_other_way):
        runner = ChangedRunner(model.runner, change)
        report = probe_all(SequenceModel(model.bundle, runner), first)
        assert report.ndcg_error == 0.0
        report.check()
    assert report.ndcg < report.ndcg_reference
    model.close()


def exclusions_ignored(batch: dict[str, AnyArray]) -> dict[str, AnyArray]:
    few = len(rows_outside(Sizes.items))  # without these, also the answers without filters differ
    return {**batch, "excluded": batch["excluded"][:, :few]}


def last_exclusion_ignored(batch: dict[str, AnyArray]) -> dict[str, AnyArray]:
    excluded_BE = batch["excluded"].copy()
    if excluded_BE.shape[1] == len(rows_outside(Sizes.items)):  # asked without filters
        return batch
    last_B = excluded_BE.shape[1] - 1 - np.argmax(excluded_BE[:, ::-1] > 0, axis=1)
    excluded_BE[np.arange(len(excluded_BE)), last_B] = 0
    return {**batch, "excluded": excluded_BE}


def another_users_exclusions(batch: dict[str, AnyArray]) -> dict[str, AnyArray]:
    return {**batch, "excluded": batch["excluded"][::-1].copy()}


@pytest.mark.parametrize(
    "misread", [exclusions_ignored, last_exclusion_ignored, another_users_exclusions]
)
def test_filters_that_do_not_work_are_caught(model: SequenceModel, misread: Misread) -> None:
    report = prove(SequenceModel(model.bundle, ChangedRunner(model.runner, misread=misread)))
    assert report.overlap == 1.0
    assert report.max_error < FP32_TOLERANCE
    with pytest.raises(ProbeFailed, match=r"overlap with filters 0\.\d+, at least 1 expected"):
        report.check()


def always_20(batch: dict[str, AnyArray]) -> dict[str, AnyArray]:
    return {**batch, "k": np.array([20])}


def test_a_fixed_k_is_caught(model: SequenceModel) -> None:
    runner = ChangedRunner(model.runner, misread=always_20)
    with pytest.raises(ProbeFailed, match=r"rows \[10, 20\] .* where 10 users ask for 7 each"):
        prove(SequenceModel(model.bundle, runner))


def barred_item_at_the_end(outputs: dict[str, AnyArray], batch: Mapping[str, AnyArray]) -> None:
    """More items than are eligible."""
    outputs["scores"][outputs["scores"] == -np.inf] = -1e4


@pytest.mark.parametrize("items", [1, 3, 20, 45])
def test_a_small_catalogue_is_proven_too(tmp_path: Path, items: int) -> None:
    shop = publish(tmp_path / "repository", Sizes(items=items, max_length=4, probes=20))
    model = open_model(shop.folder, threads=1)
    report = prove(model)
    report.check()
    assert (report.overlap, report.filtered.overlap) == (1.0, 1.0)
    with pytest.raises(ProbeFailed, match="score error with filters inf"):
        changed(model, barred_item_at_the_end).check()
    model.close()


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


def test_a_probe_set_whose_targets_are_no_items_is_refused(copy: Path, shop: Shop) -> None:
    text = probe_refusal(copy, shop, target=np.full(40, 301))
    assert "a target has rows outside 1 to 300" in text


def test_a_probe_set_whose_best_answers_are_no_items_is_refused(copy: Path, shop: Shop) -> None:
    text = probe_refusal(copy, shop, top_rows=np.zeros((40, 20), np.int64))
    assert "a best answer has rows outside 1 to 300" in text


def test_a_probe_set_reads_back_as_it_was_written(shop: Shop, tmp_path: Path) -> None:
    probe = load_probe(shop.folder, shop.sizes.items)
    probe.save(tmp_path)
    again = load_probe(tmp_path, shop.sizes.items)
    for name, array in vars(probe).items():
        assert np.array_equal(vars(again)[name], array), name


def test_a_file_that_is_no_probe_set_is_refused(copy: Path, shop: Shop) -> None:
    (copy / "probe.npz").write_bytes(b"PK\x03\x04 but no more")
    with pytest.raises(BundleError, match=r"probe\.npz is unreadable"):
        load_probe(copy, shop.sizes.items)
