"""`mmsr-bench engine`: a real ONNX graph, measured by batch size."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_bundle import Sizes, Twin, publish

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.engine_bench import (
    EngineBench,
    Point,
    Tick,
    make_batches,
    measure_engine,
    time_batches,
    turns_of,
)
from mmsr.engine.bench.page.document import page_of
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import write_report
from mmsr.engine.bench.runner_tables import print_engine
from mmsr.engine.bench.synthetic import Asked, bind_items
from mmsr.engine.errors import ConfigError
from mmsr.engine.model import RowRequest, open_model, split
from mmsr.engine.runners.base import AnyArray


def no_progress(name: str, total_s: float) -> AbstractContextManager[Tick]:
    del name, total_s
    return nullcontext(lambda passed_s: None)


def bench_of(repository: Repository, **changes: object) -> EngineBench:
    ordinary: dict[str, object] = {
        "repositories": [repository.root],
        "batches": [1, 4],
        "ks": [5],
        "threads": 1,
        "duration_s": 0.2,
    }
    settings = ordinary | changes
    return EngineBench(
        seed=0,
        **settings,  # type: ignore[arg-type]
    )


def test_a_report_by_batch_size(repository: Repository, twin: Twin) -> None:
    report = measure_engine(bench_of(repository), no_progress)
    assert [run.batch for run in report.runs] == [1, 4]
    for run in report.runs:
        assert run.length == twin.max_length
        assert (run.items, run.precision) == (60, "fp32")
        assert run.scored_gb_per_s == pytest.approx(
            run.share_of_memory * report.copy_gb_per_s, rel=1e-6
        )
        assert run.batches > 20
        assert run.batch_ms["p50"] is not None
        assert run.measured_s > 0.05
        assert sum(run.share.values()) == pytest.approx(1.0)
        assert run.batches * run.batch / run.measured_s == pytest.approx(run.requests_per_s)

    out = StringIO()
    print_engine(Console(file=out, width=80), report)
    assert "1 threads, memory copied at" in out.getvalue()
    assert "fp32, ONNX Runtime CPUExecutionProvider, items 60, histories of 12" in out.getvalue()
    assert "…" not in out.getvalue()
    path = repository.root / "report.json"
    write_report(path, report)
    written = json.loads(path.read_text())
    assert written["scenario"] == "engine"
    assert written["runs"][0]["batch_ms"]["p50"] == report.runs[0].batch_ms["p50"]


@dataclass(frozen=True, kw_only=True)
class CountingAsked(Asked):
    """Counts the batches that are made."""

    made: list[int]

    def inputs(self, requests: Sequence[RowRequest]) -> dict[str, AnyArray]:
        self.made.append(len(requests))
        return super().inputs(requests)


def test_batches_of_the_warm_up_are_computed_and_not_timed(repository: Repository) -> None:
    model = open_model(repository.resolve("stable"), threads=1)
    try:
        asked = CountingAsked(model=model, items=None, made=[])
        batches = make_batches(model, Point(batch=3, length=7, k=2, items=None), seed=0)
        times_R3 = time_batches(asked, batches, 0.05, lambda passed_s: None)
    finally:
        model.close()
    assert len(asked.made) > len(times_R3) > 0


def test_batches_are_full_different_and_of_one_length(repository: Repository) -> None:
    model = open_model(repository.resolve("stable"), threads=1)
    try:
        point = Point(batch=3, length=7, k=2, items=None)
        batches = make_batches(model, point, seed=0)
        times_R3 = time_batches(
            Asked(model=model, items=None), batches, 0.05, lambda passed_s: None
        )
    finally:
        model.close()
    assert {len(batch) for batch in batches} == {3}
    assert {len(request.history) for batch in batches for request in batch} == {7}
    assert len({tuple(batch[0].history) for batch in batches}) == len(batches)
    assert all(request.excluded == request.history for batch in batches for request in batch)
    assert (times_R3 > 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [3, 13]}, "length is 13; this model reads 1 to 12 items"),
        ({"lengths": [0]}, "length is 0"),
        ({"ks": [61]}, "k is 61; expected 1 to 60, the items of this bundle"),
        ({"ks": [0]}, "k is 0"),
        ({"items": [40], "ks": [50]}, "k is 50; expected 1 to 40"),
        ({"items": [10**9]}, "items .* expected sizes from 1 to 50000000"),
        ({"threads": 0}, "threads is 0"),
        ({"runner": "abacus"}, "runner is 'abacus'; expected one of auto, cpu, cuda"),
        ({"labels": ["stable"] * 9}, "9 bundles; expected 1 to 8"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    repository: Repository, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        measure_engine(bench_of(repository, **changes), no_progress)


def test_an_interrupt_keeps_the_batch_sizes_before_it(repository: Repository) -> None:
    def interrupt_at_four(name: str, total_s: float) -> AbstractContextManager[Tick]:
        if name.startswith("batch 4,"):
            raise KeyboardInterrupt
        return no_progress(name, total_s)

    report = measure_engine(bench_of(repository), interrupt_at_four)
    assert report.interrupted
    assert [run.batch for run in report.runs] == [1]


def test_a_runner_that_is_not_there_is_one_line_of_the_engines_own(repository: Repository) -> None:
    with pytest.raises(ConfigError, match=r"runner tensorrt: no engine for .* lies beside"):
        measure_engine(bench_of(repository, runner="tensorrt"), no_progress)


def test_turns_go_there_and_back_so_that_drift_falls_on_all() -> None:
    assert turns_of(2, 2) == [0, 1, 1, 0]
    turns = turns_of(3, 4)
    assert turns == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    # What grows evenly over the run costs each of them as much.
    assert {sum(place for place, side in enumerate(turns) if side == one) for one in range(3)} == {
        22
    }


def test_two_repositories_are_measured_in_turn_and_set_beside_each_other(
    repository: Repository, tmp_path: Path
) -> None:
    """B scores 300 times as many items, so that no neighbour's noise hides which is slower."""
    large = publish(tmp_path / "new", Sizes(items=20_000, probes=5, width=64))
    bench = bench_of(repository, repositories=[repository.root, large.root], duration_s=1.0)
    report = measure_engine(bench, no_progress)
    assert [(run.side, run.batch, run.items) for run in report.runs] == [
        ("A", 1, 60),
        ("B", 1, 20_000),
        ("A", 4, 60),
        ("B", 4, 20_000),
    ]
    for one in report.ratios:
        assert (one.side, one.run % 2) == ("B", 1)
        per_s, median = one.ratios
        assert (per_s.metric, median.metric) == ("answers/s", "p50 ms")
        assert per_s.ratio is not None
        assert per_s.bounds is not None
        assert per_s.ratio == pytest.approx(
            report.runs[one.run].requests_per_s / report.runs[one.run - 1].requests_per_s, rel=0.01
        )
        assert per_s.ratio < 0.9
        assert median.ratio is None or median.ratio > 1.1
    out = StringIO()
    print_engine(Console(file=out, width=80), report)
    assert "A: bundle" in out.getvalue()
    assert f"B: bundle {large.folder.name} of new, fp32" in out.getvalue()
    assert "Each bundle over A" in out.getvalue()
    assert "…" not in out.getvalue()
    assert "Each bundle over A" in page_of(report)


def test_every_combination_is_measured_and_what_varies_is_a_column(repository: Repository) -> None:
    report = measure_engine(
        bench_of(repository, batches=[2], lengths=[3, 6], items=[500, 2000]), no_progress
    )
    assert [(run.items, run.length) for run in report.runs] == [
        (500, 3),
        (500, 6),
        (2000, 3),
        (2000, 6),
    ]
    out = StringIO()
    print_engine(Console(file=out, width=80), report)
    assert "…" not in out.getvalue()
    heading = next(line.split() for line in out.getvalue().splitlines() if "p50" in line)
    assert heading[:3] == ["batch", "items", "length"]


def test_a_synthetic_catalogue_answers_with_its_own_rows(repository: Repository) -> None:
    model = open_model(repository.resolve("stable"), threads=1)
    try:
        asked = bind_items(model, 1000, seed=1)
        requests = [RowRequest([7, 900], [7], 1000)]
        outputs = model.runner.run(asked.inputs(requests))
        (answer,) = split(requests, asked.rows(outputs["rows"]), outputs["scores"])
        assert len(answer.rows) == 999  # every row but the excluded one, spare rows not
        assert set(answer.rows) == set(range(1, 1001)) - {7}
        assert len(set(answer.scores)) > 900  # hardly a tie
        bind_items(model, None, seed=1)
        (own,) = model.recommend([RowRequest([7], [], 60)])
        assert max(own.rows) <= 60
    finally:
        model.close()
