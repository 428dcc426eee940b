"""Counts calls and what their answers say of queue, computation and batch. Knows no exporter.

Plain numbers of one event loop: a call costs a few microseconds. An exporter may read them from
another thread at any time; each number is whole, sums may be a call ahead of each other.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Container
from functools import cache
from typing import Any, NamedTuple, Protocol

from google.protobuf.message import Message

from mmsr.engine.rpc import OK, Call, Outcome

# 7 ms and 50 ms are the goals of README; a tenfold above the largest is no serving any more.
SECONDS = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03),
    *(0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
UNKNOWN_LABEL = "unknown"  # one series for all that callers may invent


class Labels(Protocol):
    """What is served under which label: `Serving` knows."""

    @property
    def deployments(self) -> Container[str]:
        """The labels in use."""

    def chosen(self, label: str, user_key: str) -> str:
        """Return the label that answers a request."""


class Histogram:
    """How many values fell below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # each its own; the last one above all bounds
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Series:
    """What is counted of one method under one label."""

    __slots__ = ("answers", "compute", "fallbacks", "queue", "total", "unknown_ids")

    def __init__(self) -> None:
        self.total = Histogram(SECONDS)  # of answered calls that are no streams
        self.queue = Histogram(SECONDS)  # these two of each answer that was computed
        self.compute = Histogram(SECONDS)
        self.answers = 0  # requests: a call may hold many
        self.fallbacks = 0
        self.unknown_ids = 0

    def answered(self, response: Any) -> None:
        """Count the answer to one request, as its message tells it."""
        self.answers += 1
        kind: Any = type(response)
        says = says_of(kind)
        if says.compute and (compute_us := response.compute_us):
            self.compute.add(compute_us * 1e-6)
            if says.queue:
                self.queue.add(response.queue_us * 1e-6)
        if says.unknown and (unknown_ids := response.unknown_ids):
            self.unknown_ids += unknown_ids
        if says.fallback and response.fallback:
            self.fallbacks += 1


class Says(NamedTuple):
    """Which of these fields a kind of answer has."""

    compute: bool
    queue: bool
    unknown: bool
    fallback: bool


@cache
def says_of(kind: Any) -> Says:
    """Return what a kind of answer says."""
    fields = kind.DESCRIPTOR.fields_by_name
    names = ("compute_us", "queue_us", "unknown_ids", "fallback")
    return Says(*(name in fields for name in names))


Reader = Callable[["CallStats", str, Any, Any], None]


class CallStats:
    """The meter whose numbers are exported."""

    reads_metadata = False

    def __init__(self, labels: Labels) -> None:
        self._labels = labels
        self._readers: dict[type[Any], Reader] = {}
        self.series: dict[tuple[str, str], Series] = {}  # by method and label
        self.in_flight: Counter[str] = Counter()  # by method
        self.calls: Counter[tuple[str, str]] = Counter()  # by method and code
        self.refusals: Counter[tuple[str, str, str]] = Counter()  # by method, code and cause

    def began(self, method: str) -> None:
        """Count a call that has come."""
        self.in_flight[method] += 1

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Count one response of a stream."""
        self._read(call.method, request, response)

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Count a call that has ended."""
        method, error = call.method, outcome.error
        self.in_flight[method] -= 1
        if error is not None:
            self.calls[method, error.code] += 1
            self.refusals[method, error.code, type(error).__name__] += 1
            return
        self.calls[method, OK] += 1
        if outcome.response is not None:
            self._read(method, outcome.request, outcome.response)
            self.series_of(method, outcome.request).total.add(outcome.seconds)

    def series_of(self, method: str, request: Any) -> Series:
        """Return the numbers of a method under the label that a request asks for."""
        key = method, self._label(request)
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series()
        return series

    def _label(self, request: Any) -> str:
        try:
            named: str = request.label
        except AttributeError:  # of a stream, a batch, or a service without labels
            return self._label_inside(request)
        label = self._labels.chosen(named, getattr(request, "user_key", ""))
        return label if not named or label in self._labels.deployments else UNKNOWN_LABEL

    def _label_inside(self, request: Any) -> str:
        fields = request.DESCRIPTOR.fields_by_name if request is not None else {}
        if "request" in fields:
            return self._label(request.request)
        if "requests" in fields:
            first = request.requests[0] if request.requests else None
            return self._labels.chosen("", "") if first is None else self._label(first)
        return ""

    def _read(self, method: str, request: Any, response: Any) -> None:
        kind = type(response)
        reader = self._readers.get(kind)
        if reader is None:
            reader = self._readers[kind] = reader_of(response.DESCRIPTOR.fields_by_name)
        reader(self, method, request, response)

    def result(self, method: str, request: Any, result: Any) -> None:
        """Count one of several results: an answer, or an error of its own."""
        if result.HasField("response"):
            self.series_of(method, request).answered(result.response)
        else:
            self.refusals[method, result.error.code, "Result"] += 1


def reader_of(fields: Container[str]) -> Reader:
    """Return what reads the responses of a kind, told by the names of its fields."""
    if "results" in fields:
        return _read_results
    if "result" in fields:
        return _read_result
    return _read_answer


def _read_answer(stats: CallStats, method: str, request: Any, response: Any) -> None:
    stats.series_of(method, request).answered(response)


def _read_result(stats: CallStats, method: str, request: Any, response: Any) -> None:
    stats.result(method, request, response.result)


def _read_results(stats: CallStats, method: str, request: Any, response: Any) -> None:
    for asked, result in zip(request.requests, response.results, strict=False):
        stats.result(method, asked, result)
