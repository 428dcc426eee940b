"""Which precision of a staged bundle is the fastest on this machine: timed in turns.

What disturbs the machine for a while disturbs everybody: ratios are of one round's medians. Only
times are compared here; whether the answers are right is the gate's to say.
"""

# R rounds, B users of one call

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.bundle.errors import BundleError
from mmsr.engine.items import bound_rows, rows_outside
from mmsr.engine.model import RowRequest, assemble
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.precision import FP32
from mmsr.engine.probe_set import load_probe
from mmsr.engine.quantise import bind_outputs
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.onnx import LOAD_ERRORS, open_onnx
from mmsr.export.onnx_file import describe
from mmsr.export.precision import PrecisionError
from mmsr.export.variants import write_variant
from mmsr.training.statistics import paired_interval

RACERS = (FP32, "int8", "fp16")  # bf16 cannot be computed by what serves here
BATCHES = (1, 8, 32)
THREADS = 1
K = 20
BUDGET_S = 10.0
MIN_ROUNDS, MAX_ROUNDS = 3, 15
TURN_S = 0.03
HOPELESS = 3.0  # times as long as fp32 in a first call: not raced
MIN_GAIN = 1.05  # what is faster by less is not worth another answer

Batch = dict[str, AnyArray]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """How one precision did beside fp32."""

    p50_ms: dict[int, float] = field(default_factory=dict)  # by batch size
    gain: float = 0.0  # how many times as long fp32 takes, geometric mean over the batch sizes
    low: float = 0.0  # 95 % interval over the rounds
    high: float = 0.0
    why_not: str | None = None  # why it took no part


def race(
    folder: Path, fp32_graph: Path, spare: Path, budget_s: float = BUDGET_S
) -> dict[str, Timed]:
    """Time the precisions on the bundle's own tables and probe histories.

    `spare` is an empty folder for the graphs. At most about `budget_s` seconds after the loading.
    """
    bundle = open_bundle(folder)
    batches = {size: _batch(bundle, size) for size in BATCHES}
    runners: dict[str, Runner] = {}
    absent: dict[str, Timed] = {}
    try:
        for precision in RACERS:
            found = _enter(bundle, precision, fp32_graph, spare, batches[1])
            if isinstance(found, str):
                absent[precision] = Timed(why_not=found)
            else:
                runners[precision] = found
        slow = _hopeless(runners, batches[1])
        absent |= slow
        racers = {name: runner for name, runner in runners.items() if name not in slow}
        return _times(racers, batches, budget_s) | absent
    finally:
        for runner in runners.values():
            runner.close()


def by_speed(times: Mapping[str, Timed]) -> list[str]:
    """Return what is faster than fp32 beyond doubt, the fastest first, then fp32."""
    faster = [name for name, t in times.items() if name != FP32 and t.low > MIN_GAIN]
    return [*sorted(faster, key=lambda name: -times[name].gain), FP32]


def summary(times: Mapping[str, Timed]) -> str:
    """Return the result in half a line."""
    parts = [
        f"{name} {t.why_not}" if t.why_not else f"{name} {t.gain:.2f} [{t.low:.2f}, {t.high:.2f}]"
        for name, t in times.items()
        if name != FP32
    ]
    return f"times as fast as fp32 at batch {', '.join(map(str, BATCHES))}: {'; '.join(parts)}"


def _batch(bundle: OpenedBundle, size: int) -> Batch:
    """Return the longest probe histories, what they hold excluded, as served by default."""
    items = bundle.manifest.tables.items
    probe = load_probe(bundle.folder, items)
    longest = np.argsort(-probe.length_P, kind="stable")
    users = np.resize(longest, size).tolist()
    histories = [probe.history_PL[user, : probe.length_P[user]].tolist() for user in users]
    outside = rows_outside(items)
    return assemble([RowRequest(h, [*h, *outside], min(K, items)) for h in histories])


def _enter(
    bundle: OpenedBundle, precision: str, fp32_graph: Path, spare: Path, batch: Batch
) -> Runner | str:
    """Return a runner with its tables bound that has answered once, or why there is none."""
    path = spare / f"{precision}.onnx"
    try:
        write_variant(precision, fp32_graph, path, bundle.folder)
        runner = open_onnx(path, describe(path), threads=THREADS)
        runner.bind("item_inputs", bundle.item_inputs_CW)
        bind_outputs(runner, bundle.item_outputs_CD[: bound_rows(bundle.manifest.tables.items)])
        runner.run(batch)
    except (PrecisionError, BundleError) as error:
        return str(error)
    except LOAD_ERRORS as error:
        return f"cannot be computed here ({' '.join(str(error).split())[:100]})"
    return runner


def _hopeless(runners: Mapping[str, Runner], batch: Batch) -> dict[str, Timed]:
    first_s = {name: min(_times_s(runner, batch, 0.0)) for name, runner in runners.items()}
    ratios = {name: taken / first_s[FP32] for name, taken in first_s.items()}
    return {
        name: Timed(why_not=f"takes {ratio:.1f} times as long as fp32")
        for name, ratio in ratios.items()
        if ratio > HOPELESS
    }


def _times(
    runners: Mapping[str, Runner], batches: Mapping[int, Batch], budget_s: float
) -> dict[str, Timed]:
    """Take turns (A B ... B A) until the budget is spent."""
    end_s = time.perf_counter() + budget_s
    rounds: list[dict[tuple[str, int], float]] = []
    while len(rounds) < MIN_ROUNDS or (len(rounds) < MAX_ROUNDS and time.perf_counter() < end_s):
        taken: dict[tuple[str, int], list[float]] = {}
        for size, batch in batches.items():
            for name in [*runners, *reversed(list(runners))]:
                taken.setdefault((name, size), []).extend(_times_s(runners[name], batch, TURN_S))
        rounds.append({key: float(np.median(times)) for key, times in taken.items()})
    return {name: _timed(name, rounds, [*batches]) for name in runners}


def _times_s(runner: Runner, batch: Batch, turn_s: float) -> list[float]:
    times: list[float] = []
    end_s = time.perf_counter() + turn_s
    while len(times) < 2 or time.perf_counter() < end_s:
        start_s = time.perf_counter()
        runner.run(batch)
        times.append(time.perf_counter() - start_s)
    return times


def _timed(
    name: str, rounds: Sequence[Mapping[tuple[str, int], float]], sizes: Sequence[int]
) -> Timed:
    logs_R: npt.NDArray[np.float64] = np.array(
        [np.mean([np.log(r[FP32, size] / r[name, size]) for size in sizes]) for r in rounds]
    )
    low, high = paired_interval(logs_R, np.zeros(len(logs_R)))
    return Timed(
        p50_ms={s: round(1e3 * float(np.median([r[name, s] for r in rounds])), 4) for s in sizes},
        gain=float(np.exp(np.median(logs_R))),
        low=float(np.exp(low)),
        high=float(np.exp(high)),
    )
