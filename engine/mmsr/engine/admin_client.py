"""Typed blocking client of `mmsr.v1.Admin`.

    with AdminClient("127.0.0.1:50052") as admin:
        print(admin.status().models[0].model_version)

A status of the server comes back as the exception of `mmsr.engine.errors` that caused it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import grpc

from mmsr.engine.client_connection import Connection, open_channel
from mmsr.engine.errors import (
    EngineError,
    InvalidRequest,
    LoadFailed,
    LoadUnderWay,
    Unavailable,
    UnknownBundle,
)
from mmsr.v1 import admin_pb2 as pb
from mmsr.v1 import admin_pb2_grpc as pb_grpc

TIMEOUT_S = 10.0  # of what is quick
LOAD_TIMEOUT_S = 900.0  # of what loads a bundle
ERRORS = (InvalidRequest, LoadFailed, LoadUnderWay, Unavailable, UnknownBundle)
Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class FailedLoad:
    """A bundle that was not fit to be served."""

    model_version: str
    at: str  # ISO 8601, UTC
    reason: str


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What answers under one label; `model_version` is "" where nothing does."""

    label: str
    model_version: str
    runner: str
    items: int
    live_items: int
    spare_rows: int
    loaded_at: str  # ISO 8601, UTC
    queued: int  # requests that wait now
    answered: int
    refused: int
    failed_load: FailedLoad | None


@dataclass(frozen=True, kw_only=True)
class CanaryStatus:
    """A label on trial; what is counted is since its present candidate is."""

    label: str
    state: str  # "no bundle", "same bundle", "trying" or "rolled back"
    percent: float  # of the users
    shadow_percent: float  # of the default label's answers
    requests: int  # of its users, those among them that failed by the server's fault
    errors: int
    compared: int
    shadow_failed: int
    shadow_dropped: int  # since the start of the server
    overlap: float  # means; 0 where nothing was compared
    rank_biased_overlap: float
    rolled_back_at: str  # ISO 8601, UTC; "": what the label names was not rolled back to
    rolled_back_reason: str


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """How a server stands."""

    state: str  # "starting", "serving" or "draining"
    version: str
    uptime_s: float
    models: tuple[ServedModel, ...]
    default_label: str
    catalogue_version: int
    memory_bytes: int
    canary: CanaryStatus | None = None


class AdminClient:
    """Blocking client; one instance may be shared by threads."""

    def __init__(self, target: str, connection: Connection | None = None) -> None:
        connection = connection or Connection()
        self._channel = open_channel(target, connection, balanced=False)
        self._stub: Any = pb_grpc.AdminStub(self._channel)
        self._metadata = connection.metadata()

    def status(self) -> ServerStatus:
        """Return what is served and how it goes."""
        found = self._ask(self._stub.GetStatus, pb.GetStatusRequest(), TIMEOUT_S)
        return ServerStatus(
            state=found.state,
            version=found.version,
            uptime_s=found.uptime_s,
            models=tuple(map(_model, found.models)),
            default_label=found.default_label,
            catalogue_version=found.catalogue_version,
            memory_bytes=found.memory_bytes,
            canary=_canary(found.canary) if found.HasField("canary") else None,
        )

    def load(self, model_version: str, label: str = "") -> tuple[ServedModel, int]:
        """Serve a bundle; return what answers then and the milliseconds that it took.

        `LoadFailed`: the old one goes on. `UnknownBundle`, `LoadUnderWay`.
        """
        request = pb.LoadBundleRequest(model_version=model_version, label=label)
        found = self._ask(self._stub.LoadBundle, request, LOAD_TIMEOUT_S)
        return _model(found.model), found.took_ms

    def promote(self, model_version: str, label: str = "") -> ServedModel:
        """Serve a bundle, then move the repository's label to it; raises what `load` raises."""
        request = pb.PromoteRequest(model_version=model_version, label=label)
        return _model(self._ask(self._stub.Promote, request, LOAD_TIMEOUT_S).model)

    def roll_back(self, label: str = "") -> ServedModel:
        """Serve the bundle before and move the label back; raises what `load` raises."""
        request = pb.RollbackRequest(label=label)
        return _model(self._ask(self._stub.Rollback, request, LOAD_TIMEOUT_S).model)

    def set_log_level(self, level: str) -> str:
        """Change how much is logged; return the level before."""
        request = pb.SetLogLevelRequest(level=level)
        previous: str = self._ask(self._stub.SetLogLevel, request, TIMEOUT_S).previous_level
        return previous

    def drain(self) -> None:
        """Begin to stop the server, as SIGTERM does; it goes on answering for a while."""
        self._ask(self._stub.Drain, pb.DrainRequest(), TIMEOUT_S)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, method: Callable[..., Any], request: object, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _typed(error) from None


def _typed(error: Any) -> EngineError:
    """Translate gRPC's error, which is a call as well: code and details."""
    code, details = error.code().name, error.details() or ""
    kind = next((kind for kind in ERRORS if kind.code == code), None)
    return EngineError(f"{code}: {details}") if kind is None else kind(details)


def _model(found: pb.ServedModel) -> ServedModel:
    failed = found.failed_load
    return ServedModel(
        label=found.label,
        model_version=found.model_version,
        runner=found.runner,
        items=found.items,
        live_items=found.live_items,
        spare_rows=found.spare_rows,
        loaded_at=found.loaded_at,
        queued=found.queued,
        answered=found.answered,
        refused=found.refused,
        failed_load=FailedLoad(
            model_version=failed.model_version, at=failed.at, reason=failed.reason
        )
        if found.HasField("failed_load")
        else None,
    )


def _canary(found: pb.CanaryStatus) -> CanaryStatus:
    return CanaryStatus(
        label=found.label,
        state=found.state,
        percent=found.percent,
        shadow_percent=found.shadow_percent,
        requests=found.requests,
        errors=found.errors,
        compared=found.compared,
        shadow_failed=found.shadow_failed,
        shadow_dropped=found.shadow_dropped,
        overlap=found.overlap,
        rank_biased_overlap=found.rank_biased_overlap,
        rolled_back_at=found.rolled_back_at,
        rolled_back_reason=found.rolled_back_reason,
    )
