"""`mmsr-bench engine`: a real ONNX graph, measured by batch size."""

import json
from contextlib import AbstractContextManager, nullcontext
from io import StringIO

import pytest
from rich.console import Console
from support.tiny_bundle import Twin

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.engine_bench import (
    EngineBench,
    Point,
    Tick,
    make_batches,
    measure_engine,
    time_batches,
)
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import write_report
from mmsr.engine.bench.runner_tables import print_engine
from mmsr.engine.bench.synthetic import Asked, bind_items
from mmsr.engine.model import RowRequest, open_model, split


def no_progress(name: str, total_s: float) -> AbstractContextManager[Tick]:
    del name, total_s
    return nullcontext(lambda passed_s: None)


def bench_of(repository: Repository, **changes: object) -> EngineBench:
    settings: dict[str, object] = {"ks": [5], "threads": 1, "batches": [1, 4]} | changes
    return EngineBench(
        repository=repository.root,
        labels=["stable"],
        duration_s=0.2,
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
        ({"providers": ["Abacus"]}, "provider 'Abacus' is not in this ONNX Runtime; it has"),
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
    print_engine(Console(file=out, width=100), report)
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
