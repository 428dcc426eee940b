"""One run in numbers: samples in, percentiles, rates and error counts out. Pure."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.engine.bench.exchange import Outcome
from mmsr.engine.bench.latency import Values, percentile, percentiles, void_reason
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.samples import OK, UNSENT, Samples
from mmsr.engine.bench.wire import STATUS_NAMES

# R requests

Percentiles = dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a report says of one run. Only requests meant for after the warm-up count.

    Latency is from the intended send time. A request that failed counts as slower than every
    answer: a percentile that falls among the failed is None, and so is the largest latency if one
    failed. `batch_size` is the mean over requests, as a request sees it; `batches_per_s` counts
    each computation once. What the server says of itself is of answered requests.
    """

    plan: RunPlan
    measured_s: float
    interrupted: bool
    warm_up_requests: int
    requests: int
    answered: int
    errors: dict[str, int]
    first_details: dict[str, str]
    answered_per_s: float  # answers that came inside the measured time
    intended_per_s: float | None  # as drawn; None in a closed loop
    latency_ms: Percentiles
    max_latency_ms: float | None
    lag_ms: Percentiles | None  # actual minus intended send time; None in a closed loop
    batch_size: float | None
    batches_per_s: float | None
    queue_us: float | None  # median
    compute_us: float | None  # median
    fallbacks: int
    generator_cpu_us: float | None  # per request, warm-up included
    event_loop: str
    model_versions: list[str]
    void: str | None  # why the run does not count


def summarise(plan: RunPlan, outcome: Outcome, samples: Samples) -> RunSummary:
    """Turn the samples of one run into its summary."""
    end_s = outcome.sent_for_s
    measured_s = max(0.0, end_s - plan.window.warm_up_s)
    counted = samples.pick(samples.intended_s_R >= plan.window.warm_up_s)
    answered = counted.pick(counted.status_R == OK)
    failed = len(counted) - len(answered)
    latency_ms_R = (answered.done_s_R - answered.intended_s_R) * 1e3
    lag_ms_R = (counted.sent_s_R - counted.intended_s_R) * 1e3
    is_open = plan.rate_per_s is not None
    server = _server_side(answered, measured_s)
    fallbacks = int(np.count_nonzero(answered.fallback_R))
    return RunSummary(
        plan=plan,
        measured_s=measured_s,
        interrupted=outcome.interrupted,
        warm_up_requests=len(samples) - len(counted),
        requests=len(counted),
        answered=len(answered),
        errors=_errors(counted),
        first_details=outcome.first_details,
        answered_per_s=_answered_per_s(samples, plan.window.warm_up_s, end_s),
        intended_per_s=_rate(len(counted), measured_s) if is_open else None,
        latency_ms=percentiles(latency_ms_R, failed),
        max_latency_ms=float(latency_ms_R.max()) if len(answered) and not failed else None,
        lag_ms=percentiles(lag_ms_R) if is_open else None,
        batch_size=server.batch_size,
        batches_per_s=server.batches_per_s,
        queue_us=server.queue_us,
        compute_us=server.compute_us,
        fallbacks=fallbacks,
        generator_cpu_us=outcome.cpu_s * 1e6 / len(samples) if len(samples) else None,
        event_loop=outcome.event_loop,
        model_versions=outcome.model_versions,
        void=_not_the_model(fallbacks)
        or (_late(counted, latency_ms_R, lag_ms_R) if is_open else None),
    )


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


def _errors(counted: Samples) -> dict[str, int]:
    failed = Counter(counted.status_R[counted.status_R != OK].tolist())
    return {STATUS_NAMES[status]: count for status, count in failed.most_common()}


def _answered_per_s(samples: Samples, start_s: float, end_s: float) -> float:
    """Answers per second inside the window, whenever their requests were sent."""
    done_s_R = samples.done_s_R[samples.status_R == OK]
    inside = np.count_nonzero((done_s_R >= start_s) & (done_s_R < end_s))
    return _rate(int(inside), end_s - start_s)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class _ServerSide:
    """What the answers say of the server's own work."""

    batch_size: float | None
    batches_per_s: float | None
    queue_us: float | None
    compute_us: float | None


def _server_side(answered: Samples, measured_s: float) -> _ServerSide:
    computed = answered.pick(answered.batch_size_R > 0)
    if not len(computed):
        return _ServerSide(batch_size=None, batches_per_s=None, queue_us=None, compute_us=None)
    # Each of the n requests that rode in a batch of n tells of one n-th of it.
    batches = float(np.sum(1.0 / computed.batch_size_R))
    return _ServerSide(
        batch_size=float(np.mean(computed.batch_size_R)),
        batches_per_s=batches / measured_s if measured_s > 0 else None,
        queue_us=_median(computed.queue_us_R),
        compute_us=_median(computed.compute_us_R),
    )


def _median(values_R: npt.NDArray[np.uint32]) -> float | None:
    return percentile(values_R.astype(np.float64), 0.5)
