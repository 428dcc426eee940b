"""What a server tells of itself, put together from its settings: metrics, traces, call log."""

import logging
from collections.abc import Callable
from importlib.metadata import version

from mmsr.engine.call_log import CallLog
from mmsr.engine.call_stats import CallStats
from mmsr.engine.config import ObserveConfig
from mmsr.engine.meters import Meters
from mmsr.engine.metrics import CallMetrics, MetricsServer, Source, registry_of
from mmsr.engine.rpc import Meter
from mmsr.engine.security import Security
from mmsr.engine.server_metrics import (
    Counted,
    LoadMetrics,
    LoopLag,
    ServingMetrics,
    StateMetrics,
)
from mmsr.engine.serving import Serving
from mmsr.engine.trial import Trial
from mmsr.engine.trial_metrics import TrialMetrics

log = logging.getLogger(__name__)


class Telemetry:
    """The meters of a server and where their numbers go."""

    def __init__(self, config: ObserveConfig, serving: Serving, trial: Trial | None = None) -> None:
        self._config = config
        self._serving = serving
        self._version = version("mmsr")
        self.stats = CallStats(serving)
        self.loads = LoadMetrics()
        self._lag = LoopLag()
        self._tracing = None
        meters: list[Meter] = [CallLog(config.log_requests)]
        if config.metrics_port is not None:
            meters.append(self.stats)
        if config.otlp_endpoint is not None:
            from mmsr.engine.tracing import start_tracing

            self._tracing = start_tracing(config.otlp_endpoint, config.trace_ratio, self._version)
            meters.append(self._tracing)
        if trial is not None:
            meters.append(trial)
        self.meter = Meters(meters)
        self.sources: list[Source] = [
            CallMetrics(self.stats),
            self.loads,
            self._lag,
            *(() if trial is None else (TrialMetrics(trial),)),
        ]
        self._server: MetricsServer | None = None

    @property
    def port(self) -> int:
        """Where metrics are, once they are; 0: nowhere."""
        return 0 if self._server is None else self._server.port

    def start(self, is_serving: Callable[[], bool], security: Security, counted: Counted) -> None:
        """Answer scrapes from now on, if they are wanted; `ListenError` if the port is taken."""
        if self._config.metrics_port is None:
            return
        self._lag.start()
        state = StateMetrics(is_serving, security.watched)
        served = ServingMetrics(self._serving, counted, self._version)
        probes = {
            "/livez": self._lag.stuck,
            "/readyz": lambda: self._lag.stuck() or (None if is_serving() else "not serving"),
        }
        self._server = MetricsServer(registry_of([*self.sources, served, state]), probes)
        self._server.listen(self._config.metrics_host, self._config.metrics_port)
        log.info(
            "metrics for anybody on http://%s:%d/metrics", self._config.metrics_host, self.port
        )

    def stop(self) -> None:
        """Answer no more scrapes, send the last spans."""
        self._lag.stop()
        if self._server is not None:
            self._server.close()
        if self._tracing is not None:
            self._tracing.close()
