"""Prometheus metrics: what the server's own numbers are called outside. Counts nothing itself.

Beside them the answers to an orchestrator's probes, which are to be had whatever the load.

A scrape reads plain numbers in a thread of its own, so that a call pays for no lock and no scrape
waits for the event loop. Every metric is described in operations/ONCALL.md.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import make_wsgi_app

from mmsr.engine.call_stats import CallStats, Histogram
from mmsr.engine.errors import ListenError

log = logging.getLogger(__name__)

PATH = "/metrics"
Probe = Callable[[], str | None]  # what is wrong, None: nothing; called from another thread


class Source(Protocol):
    """A part of the server that has metrics."""

    def metrics(self) -> Iterable[Metric]:
        """Return them as they are now; called from another thread than the event loop's."""


def histogram(
    name: str, about: str, label_names: tuple[str, ...], found: Mapping[Any, Histogram]
) -> Metric:
    """Return a histogram of one or more series, by the values of their labels."""
    family = HistogramMetricFamily(name, about, labels=label_names)
    for values, numbers in found.items():
        reached, buckets = 0, []
        bounds = [*(str(float(bound)) for bound in numbers.bounds), "+Inf"]
        for bound, count in zip(bounds, tuple(numbers.counts), strict=True):
            reached += count
            buckets.append((bound, reached))
        family.add_metric(values, buckets, numbers.total)
    return family


def counter(
    name: str, about: str, label_names: tuple[str, ...], found: Mapping[Any, float]
) -> Metric:
    """Return a counter of one or more series; a key is the tuple of the label values, or one."""
    family = CounterMetricFamily(name, about, labels=label_names)
    for values, number in found.items():
        family.add_metric(values if isinstance(values, tuple) else (values,), number)
    return family


def gauge(
    name: str, about: str, label_names: tuple[str, ...], found: Mapping[Any, float]
) -> Metric:
    """Return a gauge of one or more series, as `counter`."""
    family = GaugeMetricFamily(name, about, labels=label_names)
    for values, number in found.items():
        family.add_metric(values if isinstance(values, tuple) else (values,), number)
    return family


def info(name: str, about: str, found: Iterable[dict[str, str]]) -> Metric:
    """Return a metric whose labels say something and whose value is 1."""
    rows = list(found)
    family = InfoMetricFamily(name, about, labels=tuple(rows[0]) if rows else ())
    for row in rows:
        family.add_metric(tuple(row.values()), {})
    return family


class CallMetrics:
    """The metrics of the calls."""

    def __init__(self, stats: CallStats) -> None:
        self._stats = stats

    def metrics(self) -> Iterator[Metric]:
        """Return them as they are now."""
        stats = self._stats
        yield counter("mmsr_calls", "Calls that ended.", ("method", "code"), dict(stats.calls))
        yield counter(
            "mmsr_refusals",
            "Calls, and results within calls, that ended with an error.",
            ("method", "code", "cause"),
            dict(stats.refusals),
        )
        yield gauge("mmsr_calls_in_flight", "Calls under way.", ("method",), dict(stats.in_flight))
        yield from self._times()

    def _times(self) -> Iterator[Metric]:
        series = dict(self._stats.series)
        names = ("method", "label")
        for name, about, found in (
            (
                "mmsr_call_seconds",
                "From arrival to answer, of answered calls.",
                {key: numbers.total for key, numbers in series.items()},
            ),
            (
                "mmsr_queue_seconds",
                "From arrival in the queue to the start of the computation, a request.",
                {key: numbers.queue for key, numbers in series.items()},
            ),
            (
                "mmsr_compute_seconds",
                "The computation that a request rode in.",
                {key: numbers.compute for key, numbers in series.items()},
            ),
        ):
            yield histogram(name, about, names, found)
        yield counter(
            "mmsr_answers",
            "Requests answered; a call may hold many.",
            names,
            {key: numbers.answers for key, numbers in series.items()},
        )
        yield counter(
            "mmsr_fallback_answers",
            "Answers by popularity, for want of a known item in the history.",
            names,
            {key: numbers.fallbacks for key, numbers in series.items()},
        )
        yield counter(
            "mmsr_unknown_history_ids",
            "Ids of histories that the catalogue does not know.",
            names,
            {key: numbers.unknown_ids for key, numbers in series.items()},
        )


class _Sources:
    """What the registry asks at a scrape."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        """Return all metrics of all sources."""
        for source in self._sources:
            yield from source.metrics()

    def describe(self) -> Iterator[Metric]:
        """Promise nothing: some series are there only once something has happened."""
        return iter(())


def registry_of(sources: Iterable[Source]) -> CollectorRegistry:
    """Return the registry of a server: its sources, the process and the interpreter."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sources(sources))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class MetricsServer:
    """GET /metrics and the probes over HTTP on an address of its own; no other path or method."""

    def __init__(self, registry: CollectorRegistry, probes: Mapping[str, Probe]) -> None:
        """`probes`: by path; each answers 200, or 503 with what is wrong."""
        self._app = make_wsgi_app(registry)
        self._probes = probes
        self._server: WSGIServer | None = None
        self.port = 0  # the real one, once it listens

    def listen(self, host: str, port: int) -> None:
        """Answer from now on, in daemon threads; `ListenError` if the address cannot be had."""
        try:
            kind = _Server6 if ":" in host else _Server
            server = make_server(host, port, self._answer, kind, _Handler)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror or error}; stop what "
                "uses it or choose another --metrics-port"
            ) from None
        self._server, self.port = server, server.server_port
        threading.Thread(
            target=server.serve_forever, args=(0.1,), name="metrics", daemon=True
        ).start()

    def close(self) -> None:
        """Answer no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        known = path == PATH or path in self._probes
        if not known or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _say(start, "404 Not Found", f"only GET {', '.join([PATH, *self._probes])}")
        if path in self._probes:
            wrong = self._probes[path]()
            return _say(start, "503 Service Unavailable" if wrong else "200 OK", wrong or "ok")
        answer: Iterable[bytes] = self._app(environ, start)
        return answer


def _say(start: Callable[..., Any], status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a scrape; none of them keeps the process from ending."""

    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say little: a scraper that hangs up is no fault of the server."""
        log.debug("a scrape was broken off")


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a whole request: an open connection is a thread

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request."""
