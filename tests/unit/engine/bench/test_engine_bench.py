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
    Tick,
    make_batches,
    measure_engine,
    time_batches,
)
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import print_engine, write_report
from mmsr.engine.model import open_model


def no_progress(name: str, total_s: float) -> AbstractContextManager[Tick]:
    del name, total_s
    return nullcontext(lambda passed_s: None)


def bench_of(repository: Repository, **changes: int) -> EngineBench:
    settings = {"length": None, "k": 5, "threads": 1} | changes
    return EngineBench(
        repository=repository.root,
        label="stable",
        batches=[1, 4],
        duration_s=0.2,
        seed=0,
        **settings,  # type: ignore[arg-type]
    )


def test_a_report_by_batch_size(repository: Repository, twin: Twin) -> None:
    report = measure_engine(bench_of(repository), no_progress)
    assert [run.batch for run in report.runs] == [1, 4]
    assert report.length == twin.max_length
    for run in report.runs:
        assert run.batches > 20
        assert run.batch_ms["p50"] is not None
        assert run.measured_s >= 0.2
        assert sum(run.share.values()) == pytest.approx(1.0)
        mean_batch_ms = run.batch / run.requests_per_s * 1e3
        assert mean_batch_ms * run.batches <= run.measured_s * 1e3

    out = StringIO()
    print_engine(Console(file=out, width=80), report)
    assert "ONNX Runtime CPUExecutionProvider, 1 threads" in out.getvalue()
    path = repository.root / "report.json"
    write_report(path, report)
    written = json.loads(path.read_text())
    assert written["scenario"] == "engine"
    assert written["runs"][0]["batch_ms"]["p50"] == report.runs[0].batch_ms["p50"]


def test_batches_are_full_different_and_of_one_length(repository: Repository) -> None:
    model = open_model(repository.resolve("stable"), threads=1)
    try:
        batches = make_batches(model, batch=3, length=7, k=2, seed=0)
        summary = time_batches(model, batches, 0.05, lambda passed_s: None)
    finally:
        model.close()
    assert {len(batch) for batch in batches} == {3}
    assert {len(request.history) for batch in batches for request in batch} == {7}
    assert len({tuple(batch[0].history) for batch in batches}) == len(batches)
    assert all(request.excluded == request.history for batch in batches for request in batch)
    assert summary.batch == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 13}, "length is 13; this model reads 1 to 12 items"),
        ({"length": 0}, "length is 0"),
        ({"k": 61}, "k is 61; expected 1 to 60, the items of this bundle"),
        ({"k": 0}, "k is 0"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    repository: Repository, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(BenchError, match=message):
        measure_engine(bench_of(repository, **changes), no_progress)


def test_an_interrupt_keeps_the_batch_sizes_before_it(repository: Repository) -> None:
    def interrupt_at_four(name: str, total_s: float) -> AbstractContextManager[Tick]:
        if name == "batch 4":
            raise KeyboardInterrupt
        return no_progress(name, total_s)

    report = measure_engine(bench_of(repository), interrupt_at_four)
    assert report.interrupted
    assert [run.batch for run in report.runs] == [1]
