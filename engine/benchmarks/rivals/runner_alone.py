"""The runner without a server beside RePlay's compiled SASRec, which is a library and has none.

Equal: items, width (of the feed-forward net too), blocks, heads, history length, threads,
histories, K, what is returned (the K best unseen rows). Not equal: the weights, which are random
on both sides, as RePlay's class cannot load ours.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.rivals.arena import ENVIRONMENT, Ground
from benchmarks.rivals.venvs import PATHS, RivalError, python_of
from benchmarks.rivals.verdicts import Spread, ratio, spread
from mmsr.engine.model import RowRequest, SequenceModel, open_model

BATCHES = (1, 16, 64)
HISTORIES = 300
MMSR_RUNNER = "mmsr runner"
REPLAY_SCORES = "RePlay compiled, all scores"
REPLAY_RANKED = "RePlay compiled, and top K"
Histories = list[list[int]]


@dataclass(kw_only=True)
class Times:
    """Median seconds of a batch, a block each; and CPU seconds of a batch."""

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AloneLine:
    """One runner at one batch size."""

    batch: int
    name: str
    ms: Spread
    cpu_ms: float
    ratio: Spread  # its time over ours, block by block
    faster: bool  # than ours, by the median


def compare(ground: Ground, rounds: int, seconds: float) -> list[AloneLine]:
    """Time both, A B B A, for each batch size."""
    model = open_model(ground.bundle, threads=ground.threads)
    random = np.random.default_rng(1)
    items = model.bundle.manifest.tables.items
    histories = [
        random.integers(1, items + 1, n).tolist()
        for n in random.integers(1, ground.max_length + 1, HISTORIES).tolist()
    ]
    lines: list[AloneLine] = []
    with replay(model, histories, ground) as (process, answers):
        for batch in BATCHES:
            found = {name: Times() for name in (MMSR_RUNNER, REPLAY_SCORES, REPLAY_RANKED)}
            for number in range(2 * rounds):
                for ours in (True, False) if number % 2 == 0 else (False, True):
                    if ours:
                        time_ours(model, histories, (batch, ground.k, seconds), found)
                    else:
                        ask(process, {"batch": batch, "seconds": seconds})
                        note(found, read(answers, process))
            lines += lines_of(batch, found)
    return lines


def time_ours(
    model: SequenceModel,
    histories: Histories,
    asked: tuple[int, int, float],
    found: dict[str, Times],
) -> None:
    """Answer batches for some seconds."""
    batch, k, seconds = asked
    times: list[float] = []
    ends, cpu_s = time.perf_counter() + seconds, time.process_time()
    while not times or time.perf_counter() < ends:
        at = len(times) * batch % (len(histories) - batch)
        began = time.perf_counter()
        model.recommend(
            [RowRequest(h, list(dict.fromkeys(h)), k) for h in histories[at : at + batch]]
        )
        times.append(time.perf_counter() - began)
    found[MMSR_RUNNER].wall_s.append(float(np.median(times)))
    found[MMSR_RUNNER].cpu_s.append((time.process_time() - cpu_s) / len(times))


def note(found: dict[str, Times], answer: dict[str, list[float]]) -> None:
    """Keep what RePlay's process measured; its CPU time is of scores and top K together."""
    for name, key in ((REPLAY_SCORES, "scored_s"), (REPLAY_RANKED, "ranked_s")):
        found[name].wall_s.append(float(np.median(answer[key])))
        found[name].cpu_s.append(answer["cpu_s"][0])


def lines_of(batch: int, found: dict[str, Times]) -> list[AloneLine]:
    """Sum one batch size up."""
    first = found[MMSR_RUNNER].wall_s
    lines = []
    for name, times in found.items():
        against = ratio(times.wall_s, first)
        lines.append(
            AloneLine(
                batch=batch,
                name=name,
                ms=spread([1e3 * s for s in times.wall_s]),
                cpu_ms=1e3 * float(np.median(times.cpu_s)),
                ratio=against,
                faster=against.median < 1,
            )
        )
    return lines


@contextmanager
def replay(
    model: SequenceModel, histories: Histories, ground: Ground
) -> "Iterator[tuple[subprocess.Popen[str], IO[str]]]":
    """Keep RePlay's process, which has compiled a model of the same sizes."""
    manifest = model.bundle.manifest
    trained = manifest.model
    job: dict[str, Any] = {
        "items": manifest.tables.items,
        "width": manifest.tables.output_width,
        "length": manifest.max_length,
        "blocks": trained["blocks"],
        "heads": trained["heads"],
        "threads": ground.threads,
        "k": ground.k,
        "batches": BATCHES,
        "histories": histories,
    }
    log = ground.work / "replay.log"
    with log.open("w") as said:
        process = subprocess.Popen(
            [str(python_of("replay", ground.venvs)), "-m", "benchmarks.rivals.time_replay"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            cwd=ground.work,
            env=_environment(PATHS),
        )
    assert process.stdout is not None
    try:
        ask(process, job)
        read(process.stdout, process)
        yield process, process.stdout
    finally:
        process.kill()
        process.wait()


def ask(process: "subprocess.Popen[str]", message: dict[str, Any]) -> None:
    """Send one line."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(message) + "\n")
    process.stdin.flush()


def read(answers: IO[str], process: "subprocess.Popen[str]") -> dict[str, list[float]]:
    """Read one line; `RivalError` if the process has ended."""
    line = answers.readline()
    if not line:
        raise RivalError(f"RePlay's process ended with code {process.wait()}; see replay.log")
    answer: dict[str, list[float]] = json.loads(line)
    return answer


def _environment(paths: Sequence[Path]) -> dict[str, str]:
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(map(str, paths))}
