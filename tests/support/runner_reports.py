"""Reports of what is measured without a load: real code on tiny bundles, or made-up times."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from support.counting_encoders import publish_with_encoders
from support.tiny_bundle import Sizes, publish

from mmsr.engine.bench.encode_bench import EncodeBench, measure_encode
from mmsr.engine.bench.engine_bench import EngineBench, EngineReport, Tick, measure_engine
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.report import RunnerReport
from mmsr.engine.bench.retrain_bench import stages_of


def no_progress(name: str, total_s: float) -> AbstractContextManager[Tick]:
    del name, total_s
    return nullcontext(lambda passed_s: None)


def engine_report(root: Path) -> EngineReport:
    """Measure two batch sizes at two catalogue sizes."""
    publish(root, Sizes(items=60, probes=5))
    bench = EngineBench(
        repositories=[root],
        labels=["stable"],
        batches=[1, 4],
        items=[60, 500],
        ks=[5],
        duration_s=0.1,
        threads=1,
        seed=0,
    )
    return measure_engine(bench, no_progress)


def encode_report(root: Path) -> RunnerReport:
    """Measure both encoders at two batch sizes."""
    publish_with_encoders(root)
    bench = EncodeBench(
        repository=root, label="stable", batches=[1, 4], images=None, duration_s=0.05, threads=1
    )
    return measure_encode(bench, no_progress)


def retrain_report() -> RunnerReport:
    """Return a retrain of 10 s."""
    return RunnerReport(
        scenario="retrain",
        environment=describe_environment(),
        bundle_id="0123456789abcdef",
        runs=stages_of({"graphs": 2.0, "parity": 1.0}, 100.0, 104.0, (104.5, 110.0)),
        interrupted=True,
        findings={
            "train_end": "2026-01-01T00:00:00.000+00:00",
            "first_answer": "2026-01-01T00:01:00.000+00:00",
            "waited_before_export_s": 50.0,
            "export_to_answer_s": 10.0,
            "label_to_answer_s": 5.75,
            "reused": ["item"],
        },
    )
