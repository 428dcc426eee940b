"""One run in numbers: samples in, percentiles, rates and error counts out. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from mmsr.engine.bench.blocks import Block, Interval, block_starts, count_blocks, cut, interval
from mmsr.engine.bench.exchange import Outcome
from mmsr.engine.bench.histograms import encode, merge
from mmsr.engine.bench.latency import (
    PERCENTILES,
    Values,
    percentile_name,
    percentiles,
    quantile,
    void_reason,
)
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.processes import Reading
from mmsr.engine.bench.samples import OK, UNSENT, Samples
from mmsr.engine.bench.server_side import (
    ServerProcess,
    ServerSide,
    server_process,
    server_side,
)
from mmsr.engine.bench.wire import DEADLINE_EXCEEDED, REFUSALS, STATUS_NAMES

# R requests

Percentiles = dict[str, float | None]
ONE_CHANGE_S = 1.0
EARLY_SHARE = 0.95  # of the deadline: what says DEADLINE_EXCEEDED before that did not wait for it


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a report says of one run. Only requests meant for after the warm-up count.

    Latency is from the intended send time. A request that failed counts as slower than every
    answer: a percentile that falls among the failed is None, and so is the largest latency if one
    failed. Refusals are failures by which the server says at once that it will not answer.
    """

    plan: RunPlan
    measured_s: float
    interrupted: bool
    warm_up_requests: int
    requests: int
    answered: int
    goodput_per_s: float  # answers within the SLO, of requests meant for the measured time
    goodput_interval: Interval | None
    errors: dict[str, int]
    refusals: dict[str, int]
    first_details: dict[str, str]
    answered_per_s: float  # answers that came inside the measured time
    intended_per_s: float | None  # as drawn; None in a closed loop
    latency_ms: Percentiles
    latency_intervals: dict[str, Interval | None]  # 95 %, where there is a percentile
    max_latency_ms: float | None
    refusal_ms: Percentiles  # from sending to the refusal
    lag_ms: Percentiles | None  # actual minus intended send time; None in a closed loop
    server: ServerSide
    process: ServerProcess | None  # None: the server's process cannot be seen from here
    fallbacks: int
    generator_cpu_us: float | None  # per request, warm-up included
    event_loop: str
    model_versions: list[str]
    version_changes_s: list[float]  # since the warm-up's end, when a reply had another version
    void: str | None  # why the run does not count
    blocks: list[Block]
    histogram: str

    @property
    def cpu_ratio(self) -> float | None:
        """Return the generators' CPU time per request, relative to the server's."""
        process = self.process
        if process is None or not process.cpu_us or self.generator_cpu_us is None:
            return None
        return self.generator_cpu_us / process.cpu_us

    @property
    def failed(self) -> int:
        """Return how many requests had no answer, refused or otherwise."""
        return self.requests - self.answered


def summarise(
    plan: RunPlan,
    outcome: Outcome,
    samples: Samples,
    readings: Sequence[Reading] = (),
    start_s: float = 0.0,
) -> RunSummary:
    """Turn the samples of one run into its summary."""
    end_s = outcome.sent_for_s
    warm_up_s = plan.window.warm_up_s
    measured_s = max(0.0, end_s - warm_up_s)
    counted = samples.pick(samples.intended_s_R >= warm_up_s)
    answered = counted.pick(counted.status_R == OK)
    refused_R = refusals(counted, plan.window.deadline_ms)
    failed = len(counted) - len(answered)
    latency_ms_R = (answered.done_s_R - answered.intended_s_R) * 1e3
    lag_ms_R = (counted.sent_s_R - counted.intended_s_R) * 1e3
    refused = counted.pick(refused_R)
    fallbacks = int(np.count_nonzero(answered.fallback_R))
    blocks = cut_blocks(counted, refused_R, plan, measured_s)
    headline = plan.traffic.headline
    latency_ms = percentiles(latency_ms_R, failed, headline=headline)
    goodput_per_s, goodput_interval = _goodput(blocks)
    return RunSummary(
        plan=plan,
        measured_s=measured_s,
        interrupted=outcome.interrupted,
        warm_up_requests=len(samples) - len(counted),
        requests=len(counted),
        answered=len(answered),
        goodput_per_s=goodput_per_s,
        goodput_interval=goodput_interval,
        errors=_statuses(counted.status_R[(counted.status_R != OK) & ~refused_R]),
        refusals=_statuses(refused.status_R),
        first_details=outcome.first_details,
        answered_per_s=_answered_per_s(samples, warm_up_s, end_s),
        intended_per_s=_rate(len(counted), measured_s) if plan.is_open else None,
        latency_ms=latency_ms,
        latency_intervals=_intervals(blocks, latency_ms),
        max_latency_ms=float(latency_ms_R.max()) if len(answered) and not failed else None,
        refusal_ms=percentiles((refused.done_s_R - refused.sent_s_R) * 1e3),
        lag_ms=percentiles(lag_ms_R) if plan.is_open else None,
        server=server_side(answered, measured_s),
        process=server_process(readings, len(samples), start_s),
        fallbacks=fallbacks,
        generator_cpu_us=outcome.cpu_s * 1e6 / len(samples) if len(samples) else None,
        event_loop=outcome.event_loop,
        model_versions=outcome.model_versions,
        version_changes_s=version_changes_s(samples, warm_up_s),
        void=_not_the_model(fallbacks)
        or (_late(counted, latency_ms_R, lag_ms_R) if plan.is_open else None),
        blocks=blocks,
        histogram=merge(block.histogram for block in blocks),
    )


def refusals(samples: Samples, deadline_ms: float) -> npt.NDArray[np.bool_]:
    """Return which requests [R] the server refused: in time, without computing an answer.

    RESOURCE_EXHAUSTED, CANCELLED (gRPC's core ended a call that nobody had read), and
    DEADLINE_EXCEEDED that came well before the deadline: a server that predicts that it would be
    too late says so at once.
    """
    took_ms_R = (samples.done_s_R - samples.sent_s_R) * 1e3
    early_R = (samples.status_R == DEADLINE_EXCEEDED) & (took_ms_R < EARLY_SHARE * deadline_ms)
    refused_R: npt.NDArray[np.bool_] = early_R | np.isin(samples.status_R, REFUSALS)
    return refused_R


def cut_blocks(
    counted: Samples, refused_R: npt.NDArray[np.bool_], plan: RunPlan, measured_s: float
) -> list[Block]:
    """Return the run's seconds, by the times at which requests were meant to be sent."""
    warm_up_s = plan.window.warm_up_s
    latency_ms_R = (counted.done_s_R - counted.intended_s_R) * 1e3
    ok_R = counted.status_R == OK
    good_R = ok_R & (latency_ms_R <= plan.traffic.slo_ms)
    blocks = []
    inside = cut(counted.intended_s_R - warm_up_s, measured_s)
    for (start_s, seconds), in_R in zip(block_starts(measured_s), inside, strict=True):
        answered_ms = latency_ms_R[in_R & ok_R]
        blocks.append(
            Block(
                start_s=start_s,
                seconds=seconds,
                requests=int(np.count_nonzero(in_R)),
                answered=len(answered_ms),
                good=int(np.count_nonzero(in_R & good_R)),
                refused=int(np.count_nonzero(in_R & refused_R)),
                p50_ms=quantile(answered_ms, 0.5) if len(answered_ms) else None,
                p99_ms=quantile(answered_ms, 0.99) if len(answered_ms) else None,
                histogram=encode(answered_ms),
            )
        )
    return blocks


def _goodput(blocks: Sequence[Block]) -> tuple[float, Interval | None]:
    seconds = sum(block.seconds for block in blocks)
    counted = count_blocks(blocks)
    return (
        _rate(sum(block.good for block in blocks), seconds),
        interval(counted, counted.goodput),
    )


def _intervals(
    blocks: Sequence[Block], latency_ms: Mapping[str, float | None]
) -> dict[str, Interval | None]:
    counted = count_blocks(blocks)
    return {
        percentile_name(p): None
        if latency_ms[percentile_name(p)] is None
        else interval(counted, partial(counted.quantiles, p=p))
        for p in PERCENTILES
    }


def version_changes_s(samples: Samples, warm_up_s: float) -> list[float]:
    """Return when a reply first had another model version than those before it.

    In the order in which replies came. Answers of two versions may overtake each other for a
    moment: within `ONE_CHANGE_S` that is one change.
    """
    said = samples.pick(samples.version_R > 0)
    order_R = np.argsort(said.done_s_R, kind="stable")
    places = np.flatnonzero(np.diff(said.version_R[order_R].astype(np.int64))) + 1
    changes: list[float] = []
    for at_s in (said.done_s_R[order_R][places] - warm_up_s).tolist():
        if not changes or at_s - changes[-1] > ONE_CHANGE_S:
            changes.append(round(at_s, 4))
    return changes


def _not_the_model(fallbacks: int) -> str | None:
    """Every history sent holds items of the bundle, so the model must have answered."""
    if not fallbacks:
        return None
    return (
        f"{fallbacks:,} answers were the popularity fallback: the server has another catalogue "
        "than the bundle whose histories were sent"
    )


def _late(counted: Samples, latency_ms_R: Values, lag_ms_R: Values) -> str | None:
    unsent = np.count_nonzero(counted.status_R == UNSENT)
    if unsent:
        return f"the generator could not send {unsent} of {len(counted)} requests in time"
    return void_reason(latency_ms_R, lag_ms_R)


def _statuses(status_R: npt.NDArray[np.uint8]) -> dict[str, int]:
    return {STATUS_NAMES[s]: count for s, count in Counter(status_R.tolist()).most_common()}


def _answered_per_s(samples: Samples, start_s: float, end_s: float) -> float:
    """Answers per second inside the window, whenever their requests were sent."""
    done_s_R = samples.done_s_R[samples.status_R == OK]
    inside = np.count_nonzero((done_s_R >= start_s) & (done_s_R < end_s))
    return _rate(int(inside), end_s - start_s)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0
