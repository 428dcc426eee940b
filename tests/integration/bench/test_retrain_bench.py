"""`mmsr-bench retrain`: a small export that publishes, and a server that answers with it."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from support.answering_server import Behaviour, serve_in_thread
from support.tiny_bundle import Sizes, publish

from mmsr.bundle.repository import Repository
from mmsr.engine.bench import retrain_bench
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.retrain_bench import RetrainBench, measure_retrain, stages_of
from mmsr.engine.bench.runner_tables import print_retrain

# As the real one: publishes, moves the label, says what it did. The bundle was made before.
EXPORT = """
import json, sys
from pathlib import Path
from mmsr.bundle.repository import Repository
repository = Repository(Path(sys.argv[sys.argv.index("--repository") + 1]))
(bundle_id,) = [i for i in repository.ids() if i != repository.resolve("stable").name]
repository.promote(bundle_id, sys.argv[sys.argv.index("--label") + 1])
print(json.dumps({"bundle_id": bundle_id, "seconds": {"graphs": 0.01, "parity": 0.02},
                  "reused": ["item"], "said": sys.argv[1:]}))
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    checkpoint = tmp_path / "run" / "checkpoints" / "epoch-0001" / "model.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    for path in (checkpoint, checkpoint.parent, checkpoint.parents[1]):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return tmp_path / "run"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    old = publish(root, Sizes(items=30, probes=3), seed=0).folder.name
    publish(root, Sizes(items=30, probes=3), seed=1)
    Repository(root).promote(old, "stable")
    monkeypatch.setattr(retrain_bench, "EXPORT", [sys.executable, "-c", EXPORT])
    return root


def bench_of(run: Path, root: Path, target: str, wait_s: float = 120.0) -> RetrainBench:
    return RetrainBench(
        run=run,
        repository=root,
        label="stable",
        target=target,
        data=None,
        export_flags=["--fresh"],
        restart=None,
        wait_s=wait_s,
    )


@contextmanager
def following(root: Path, after: int = 0) -> Iterator[str]:
    """Serve with the label's bundle, once `after` requests have had the first one's."""
    first = Repository(root).resolve("stable").name
    asked = iter(range(after))

    def version() -> str:
        return first if next(asked, None) is not None else Repository(root).resolve("stable").name

    with serve_in_thread(Behaviour(version_of=version)) as target:
        yield target


def test_a_retrain_is_told_stage_by_stage(run: Path, root: Path) -> None:
    old = Repository(root).resolve("stable").name
    with following(root, after=2) as target:
        report = measure_retrain(bench_of(run, root, target))
    assert report.bundle_id == Repository(root).resolve("stable").name != old
    names = [stage.name for stage in report.runs]
    assert names[:2] == ["export: graphs", "export: parity"]
    assert names[-1] == "until the first new answer"
    assert sum(stage.share for stage in report.runs) == pytest.approx(1.0, abs=0.01)
    whole_s = report.findings["export_to_answer_s"]
    assert sum(stage.seconds for stage in report.runs) == pytest.approx(whole_s, abs=0.01)
    assert report.runs[-1].seconds > 2 * retrain_bench.POLL_S  # two old answers before it
    assert report.findings["train_end"].startswith("2023-11-14")
    out = StringIO()
    print_retrain(Console(file=out, width=80), report)
    assert "Not converted again: item." in out.getvalue()
    assert json.dumps(report.findings)


def test_a_server_that_stays_with_the_old_bundle_is_one_line(run: Path, root: Path) -> None:
    expected = r"did not answer with bundle \w+ within 1 s \(bundle 0123.*\); does it watch"
    with (
        serve_in_thread(Behaviour()) as target,
        pytest.raises(BenchError, match=expected),
    ):
        measure_retrain(bench_of(run, root, target, wait_s=1.0))


def test_an_export_that_fails_is_told_by_its_last_line(
    run: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('error: too low a quality')"]
    monkeypatch.setattr(retrain_bench, "EXPORT", failing)
    with pytest.raises(BenchError, match="mmsr-export ended with 1: error: too low a quality"):
        measure_retrain(bench_of(run, root, "127.0.0.1:1"))


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"has no checkpoints; expected a run of mmsr-train fit"):
        bench_of(tmp_path, tmp_path, "127.0.0.1:1")


def test_stages_add_up_to_the_whole_way() -> None:
    stages = stages_of({"graphs": 2.0, "parity": 1.0}, 100.0, 104.0, (104.5, 110.0))
    assert [(stage.name, stage.seconds, round(stage.share, 3)) for stage in stages] == [
        ("export: graphs", 2.0, 0.2),
        ("export: parity", 1.0, 0.1),
        ("export: starting and ending", 1.0, 0.1),
        ("starting the restart command", 0.5, 0.05),
        ("until the first new answer", 5.5, 0.55),
    ]


def test_a_restart_that_fails_is_one_line(run: Path, root: Path) -> None:
    bench = bench_of(run, root, "127.0.0.1:1")
    values = {**vars(bench), "restart": f"{sys.executable} -c 'raise SystemExit(7)'"}
    with pytest.raises(BenchError, match="the restart command ended with 7"):
        measure_retrain(RetrainBench(**values))
    with pytest.raises(BenchError, match="restart 'no-such-command' cannot be run"):
        measure_retrain(RetrainBench(**{**values, "restart": "no-such-command"}))
