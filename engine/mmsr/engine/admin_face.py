"""`mmsr.v1.Admin` over gRPC: translates messages, decides nothing."""

import math

import grpc

from mmsr.engine.admin_control import Control, Served
from mmsr.engine.rpc import Call, Rpc, register
from mmsr.engine.shadow import DROPPED
from mmsr.engine.trial import Trial
from mmsr.engine.wire import ADMIN_NAME
from mmsr.v1 import admin_pb2 as pb


class AdminFace:
    """The methods of the operator's service."""

    name = ADMIN_NAME

    def __init__(self, control: Control) -> None:
        self._control = control

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""

        def name(method: str) -> str:
            return f"{self.name}/{method}"

        handlers = {
            "GetStatus": rpc.unary(name("GetStatus"), pb.GetStatusRequest, self.get_status),
            "LoadBundle": rpc.unary(name("LoadBundle"), pb.LoadBundleRequest, self.load_bundle),
            "Promote": rpc.unary(name("Promote"), pb.PromoteRequest, self.promote),
            "Rollback": rpc.unary(name("Rollback"), pb.RollbackRequest, self.roll_back),
            "SetLogLevel": rpc.unary(name("SetLogLevel"), pb.SetLogLevelRequest, self.set_level),
            "Drain": rpc.unary(name("Drain"), pb.DrainRequest, self.drain),
        }
        register(server, self.name, handlers)

    async def get_status(self, request: pb.GetStatusRequest, call: Call) -> pb.GetStatusResponse:
        """Say what is served and how it goes."""
        status = self._control.status()
        return pb.GetStatusResponse(
            state=status.state,
            version=status.version,
            uptime_s=status.uptime_s,
            models=map(model_of, status.models),
            default_label=status.default_label,
            catalogue_version=status.catalogue_version,
            memory_bytes=status.memory_bytes,
            canary=None if status.trial is None else canary_of(status.trial),
        )

    async def load_bundle(self, request: pb.LoadBundleRequest, call: Call) -> pb.LoadBundleResponse:
        """Serve a bundle of the repository under a label."""
        seconds = await self._control.load(request.label, request.model_version)
        served = self._control.served(request.label)
        return pb.LoadBundleResponse(model=model_of(served), took_ms=math.ceil(1e3 * seconds))

    async def promote(self, request: pb.PromoteRequest, call: Call) -> pb.PromoteResponse:
        """Serve a bundle, then move the label to it."""
        await self._control.promote(request.label, request.model_version)
        return pb.PromoteResponse(model=model_of(self._control.served(request.label)))

    async def roll_back(self, request: pb.RollbackRequest, call: Call) -> pb.RollbackResponse:
        """Serve the bundle before, then move the label back."""
        await self._control.roll_back(request.label)
        return pb.RollbackResponse(model=model_of(self._control.served(request.label)))

    async def set_level(self, request: pb.SetLogLevelRequest, call: Call) -> pb.SetLogLevelResponse:
        """Change how much is logged."""
        return pb.SetLogLevelResponse(previous_level=self._control.set_log_level(request.level))

    async def drain(self, request: pb.DrainRequest, call: Call) -> pb.DrainResponse:
        """Begin to stop."""
        self._control.drain()
        return pb.DrainResponse()


def model_of(served: Served) -> pb.ServedModel:
    """Translate what answers under a label."""
    model = pb.ServedModel(
        label=served.label,
        items=served.counts.items,
        live_items=served.counts.live_items,
        spare_rows=served.counts.spare_rows,
    )
    if served.deployment is not None:
        model.model_version = served.deployment.model.version
        model.runner = served.deployment.model.runner.name
        model.loaded_at = served.deployment.loaded_at
        model.queued = served.deployment.batcher.depth
        model.answered = served.deployment.batcher.counters.answered
        model.refused = served.deployment.batcher.counters.refused
    if served.failed is not None:
        model.failed_load.CopyFrom(
            pb.FailedLoad(
                model_version=served.failed.model_version,
                at=served.failed.at,
                reason=served.failed.reason,
            )
        )
    return model


def canary_of(trial: Trial) -> pb.CanaryStatus:
    """Translate how a canary's trial stands."""
    tally, back = trial.tally, trial.last_rollback
    results = dict(trial.shadow.results)
    return pb.CanaryStatus(
        label=trial.label,
        state=trial.state,
        percent=trial.config.percent,
        shadow_percent=trial.config.shadow_percent,
        requests=tally.requests,
        errors=tally.errors,
        compared=tally.compared,
        shadow_failed=tally.failed,
        shadow_dropped=sum(n for (result, _), n in results.items() if result == DROPPED),
        overlap=tally.overlap,
        rank_biased_overlap=tally.rank_biased_overlap,
        rolled_back_at="" if back is None else back.at,
        rolled_back_reason="" if back is None else back.reason,
    )
