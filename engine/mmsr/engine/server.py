"""The life of a server process: listen, load, serve, drain. Decides nothing about requests."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from mmsr.bundle.files import atomic_path
from mmsr.bundle.repository import Repository
from mmsr.engine.admin_control import DRAINING, SERVING, Control
from mmsr.engine.admin_face import AdminFace
from mmsr.engine.catalogue.carrier import CatalogueCarrier
from mmsr.engine.catalogue.face import CatalogueFace
from mmsr.engine.catalogue.live import LiveCatalogue
from mmsr.engine.catalogue.start import live_catalogue
from mmsr.engine.channelz import ChannelzFace
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig
from mmsr.engine.deployment import Deployment, deploy
from mmsr.engine.errors import ConfigError, ListenError, Unavailable
from mmsr.engine.face import RecommenderFace
from mmsr.engine.health import SERVICE_NAME as HEALTH_NAME
from mmsr.engine.health import Health
from mmsr.engine.loader import Loader
from mmsr.engine.oip import InferenceFace
from mmsr.engine.reload import Reloader
from mmsr.engine.reload_watch import Watch
from mmsr.engine.rpc import Rpc
from mmsr.engine.security import Security, check_exposure
from mmsr.engine.serving import Serving
from mmsr.engine.telemetry import Telemetry
from mmsr.engine.trial import Trial
from mmsr.engine.withdrawal import Withdrawal

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
IDLE_S = 0.5  # without a call while they are still answered: nobody sends any more
QUIET_S = 0.1  # without a call once they are refused: the callers have found out
REFUSE_S = 2.0  # for callers that do not mind being refused
ADMIN_GRACE_S = 1.0  # for the operator's calls, when everything else is answered
LEAVE_S = 1.0  # for the computing thread to end when there is nothing left to wait for
log = logging.getLogger(__name__)


class Face(Protocol):
    """A gRPC service of this server."""

    name: str  # with its package

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register the methods with a server that has not started."""


class Server:
    """One listening address with its services, health and reflection."""

    def __init__(self, config: ServeConfig, compute: ComputeThread) -> None:
        self._config = config
        self._compute = compute
        self._loading = ComputeThread(asyncio.get_running_loop(), "loading")
        self._files = ComputeThread(asyncio.get_running_loop(), "files")
        self._clock: Callable[[], float] = time.monotonic
        self.serving = Serving(config.server.label, config.canary.split)
        self.security = Security(config.security, self._clock)
        trial = Trial.of(config.canary, self.serving, self._clock)
        self.telemetry = Telemetry(config.observe, self.serving, trial)
        self.rpc = Rpc(self._clock, self.security.gatekeeper, self.telemetry.meter)
        self.loader = loader = Loader(config, compute, self._loading, self._clock)
        self.reloader = Reloader(self.serving, loader, self.rpc.flights, self._clock, config.labels)
        self.reloader.listeners.append(self.telemetry.loads.ended)
        self.watch = Watch(loader.repository, self.reloader, self._files, config.reload.poll_s)
        self.control = Control(
            self.serving, self.reloader, loader.repository, self._files, self._clock
        )
        if trial is not None:
            self.control.trial = trial
            self.watch.listeners.append(trial.follow)
            self.withdrawal = Withdrawal(trial, loader.repository, self.reloader, self._files)
        self.inference = InferenceFace(self.serving, self._clock)
        self.catalogue = live_catalogue(config.catalogue, compute.run)
        if self.catalogue is not None:
            self.reloader.carrier = CatalogueCarrier(self.catalogue)
        self.faces: tuple[Face, ...] = (
            RecommenderFace(self.serving, config.limits),
            CatalogueFace(self.serving, self.catalogue),
            self.inference,
        )
        self._operators: tuple[Face, ...] = (AdminFace(self.control),)
        if config.observe.channelz:
            self._operators = (*self._operators, ChannelzFace())
        if config.server.admin_port is None and self.rpc.guarded:
            self.faces = (*self.faces, *self._operators)
        self.health = Health(("", *(face.name for face in self.faces)))
        self.port = 0  # the real one, once it listens
        self.admin_port = 0  # likewise; 0 without one of its own
        self._admin_server: grpc.aio.Server | None = None

    @property
    def deployment(self) -> Deployment | None:
        """What answers where a request names no label."""
        return self.serving.deployments.get(self._config.server.label)

    async def listen(self) -> None:
        """Answer health checks (NOT_SERVING) from now on; `ListenError` if the port is taken."""
        self._loading.start()
        self._files.start()
        check_exposure(self._config)
        credentials = self.security.open()
        self._server = grpc.aio.server(
            options=server_options(self._config),
            maximum_concurrent_rpcs=self._config.security.calls,
        )
        for face in self.faces:
            face.add_to(self._server, self.rpc)
        self.health.add_to(self._server)
        names = (*(face.name for face in self.faces), HEALTH_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        host = self._config.server.host
        self.port = bind(self._server, host, self._config.server.port, credentials)
        self.telemetry.start(lambda: self.health.serving, self.security, self.control)
        await self._server.start()
        log.info("listening on %s:%d: %s", host, self.port, self.security.describe())
        if self._config.server.admin_port is not None:
            await self._listen_to_admin(self._config.server.admin_port, credentials)

    async def _listen_to_admin(self, port: int, credentials: grpc.ServerCredentials | None) -> None:
        host = self._config.server.admin_host
        self._admin_server = grpc.aio.server(options=server_options(self._config))
        for face in self._operators:
            face.add_to(self._admin_server, self.rpc)
        # Whoever may only reach this port can ask here whether the server serves.
        self.health.add_to(self._admin_server)
        names = (*(face.name for face in self._operators), HEALTH_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._admin_server)
        self.admin_port = bind(self._admin_server, host, port, credentials)
        await self._admin_server.start()
        way = self.security.describe()
        log.info("listening on %s:%d, Admin alone: %s", host, self.admin_port, way)

    async def load(self, folder: Path) -> None:
        """Load the bundle in `folder`, then answer with it."""
        label = self._config.server.label
        with self.telemetry.loads.counted(label):
            deployment = await deploy(folder, self._config, self._compute, self._clock)
        if self.catalogue is not None:
            await self.catalogue.open()
            await CatalogueCarrier(self.catalogue).carry(deployment)
        self.serving.use(label, deployment)
        self._ready()

    async def load_labels(self) -> None:
        """Load what the labels name, then answer with it."""
        if self.catalogue is not None:
            await self.catalogue.open()
        places = await self.watch.begin()
        missing = [label for label, place in places.items() if place is None]
        if self._config.server.label in missing:  # gone since the server began to start
            self.loader.repository.history(self._config.server.label)
        for label in missing:
            log.warning("the repository has no label %r yet; it is served once there is", label)
        await self.reloader.begin(
            {label: place.bundle_id for label, place in places.items() if place is not None}
        )
        self._ready()

    def _ready(self) -> None:
        # What is loaded lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self.control.state = SERVING
        self.health.set(serving=True)

    def announce(self) -> None:
        """Log what is served, and where."""
        for label, deployment in self.serving.deployments.items():
            log.info(
                "serving %s on %s:%d, %s items, runner %s%s",
                deployment.model.version,
                self._config.server.host,
                self.port,
                f"{len(deployment.service.items):,}",
                deployment.model.runner.name,
                f", label {label}" if len(self.serving.deployments) > 1 else "",
            )

    async def stop(self) -> int:
        """Say NOT_SERVING, go on answering for a while, then refuse what is new, and close.

        Returns how many requests were lost because the time of grace was over.
        """
        ends = self._clock() + self._config.server.grace_s
        self.control.state = DRAINING
        self.control.stop = None
        self.loader.stop()
        self.health.set(serving=False)
        if self.deployment is not None:
            # Whoever has not heard of it yet still sends, and is answered.
            lame_ends = min(ends, self._clock() + self._config.server.lame_duck_s)
            await self._wait_for_quiet(IDLE_S, lame_ends)
        self.serving.refuse(Unavailable("the server is stopping; send the request to another one"))
        in_use = dict.fromkeys((*self.serving.deployments.values(), *self.reloader.retiring))
        lost = sum(await asyncio.gather(*(self._drain(deployment, ends) for deployment in in_use)))
        if self.catalogue is not None:
            await self._close_catalogue(self.catalogue, ends)
        await self._wait_for_quiet(QUIET_S, min(ends, self._clock() + REFUSE_S))
        self.health.close()
        left_s = max(0.0, ends - self._clock())
        if self._admin_server is not None:
            await self._admin_server.stop(min(ADMIN_GRACE_S, left_s))
        await self._server.stop(max(0.0, ends - self._clock()))
        self._loading.close()
        self._files.close()
        self.telemetry.stop()
        return lost

    async def _close_catalogue(self, catalogue: LiveCatalogue, ends: float) -> None:
        """Acknowledge what waits; what is not acknowledged by the clock's `ends` may be kept."""
        try:
            await asyncio.wait_for(catalogue.close(), max(0.0, ends - self._clock()))
        except TimeoutError:
            log.error("changes of the catalogue are not acknowledged: the time of grace is over")

    async def _drain(self, deployment: Deployment, ends: float) -> int:
        """Answer what is queued; return how many requests cannot be before the clock's `ends`."""
        batcher = deployment.batcher
        waiting = batcher.unanswered
        try:
            await asyncio.wait_for(deployment.drain(), max(0.0, ends - self._clock()))
        except TimeoutError:
            lost = batcher.unanswered
            log.error(
                "%g s of grace are over: %d requests are lost", self._config.server.grace_s, lost
            )
            return lost
        counters = batcher.counters
        log.info(
            "drained: %d were waiting, none lost; %s requests answered in %s batches",
            waiting,
            f"{counters.answered:,}",
            f"{counters.batches:,}",
        )
        return 0

    def has_ended(self, limit_s: float) -> bool:
        """Wait up to `limit_s` for the thread that loads to end; return whether it has."""
        return self._loading.join(limit_s)

    async def follow_labels(self) -> None:
        """Serve what the labels name, as they move, until cancelled."""
        if self._config.reload.watch:
            await self.watch.run()

    async def _wait_for_quiet(self, quiet_s: float, ends: float) -> None:
        """Return when no call has come for `quiet_s`, or at the clock's `ends`.

        gRPC's stop cancels what it finds. Cancelled calls look like the caller's own doing;
        refused ones are tried elsewhere.
        """
        began = self._clock()
        while (now := self._clock()) < ends:
            quiet_at = max(began, self.rpc.last_call) + quiet_s
            if now >= quiet_at:
                return
            await asyncio.sleep(min(quiet_at, ends) - now)


async def serve(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; raise what the start of the server raises."""
    Repository(config.server.repository).resolve(config.server.label)  # told before it listens
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    compute = ComputeThread(loop)
    server = Server(config, compute)
    await server.listen()
    compute.start()
    try:
        if await loaded(server.load_labels(), stopping):
            server.control.stop = stopping.set
            with port_file(config.server.port_file, server.port):
                server.announce()
                await loaded(forever(server.follow_labels()), stopping)
        log.info("stopping")
    finally:
        lost = await server.stop()
        compute.close()
        server.inference.encoding.close()
        ended = (compute.join, server.has_ended, server.inference.encoding.join)
        if not all(has_ended(LEAVE_S) for has_ended in ended):
            leave(sys.exception(), lost)


async def forever(work: Coroutine[None, None, None]) -> None:
    """Do some work, and then nothing, until cancelled."""
    await work
    await asyncio.Event().wait()


def leave(failure: BaseException | None, lost: int) -> NoReturn:
    """End the process at once, while a computation goes on in native code.

    Python's own end would pull the interpreter from under it, and the process would abort.
    """
    if failure is not None:
        log.error("%s", failure)
    log.warning("a computation does not end and is left behind")
    logging.shutdown()
    os._exit(1 if failure is not None or lost else 0)


async def loaded(load: Coroutine[None, None, None], stopping: asyncio.Event) -> bool:
    """Await `load`; return False, with it cancelled, if the order to stop comes first."""
    loading = asyncio.create_task(load)
    told = asyncio.create_task(stopping.wait())
    await asyncio.wait({loading, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if loading.done():
        loading.result()
        return True
    loading.cancel()
    return False


def server_options(config: ServeConfig) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments."""
    server = config.server
    times_s = {
        "grpc.keepalive_time_ms": server.keepalive_s,
        "grpc.keepalive_timeout_ms": server.keepalive_timeout_s,
        "grpc.http2.min_recv_ping_interval_without_data_ms": server.min_ping_interval_s,
        "grpc.max_connection_idle_ms": server.max_connection_idle_s,
        "grpc.max_connection_age_ms": server.max_connection_age_s,
        "grpc.max_connection_age_grace_ms": server.max_connection_age_grace_s,
    }
    return [
        ("grpc.so_reuseport", 0),  # else a second server shares the port without an error
        ("grpc.max_receive_message_length", config.limits.message_bytes),
        ("grpc.max_concurrent_streams", config.security.connection_calls),
        # Else gRPC ends calls above that limit with UNAVAILABLE, though clients hold them back.
        ("grpc.http.overload_protection", 0),
        # gRPC refuses at random between the two; equal, they are one limit.
        ("grpc.server.max_pending_requests", config.batch.pending_limit),
        ("grpc.server.max_pending_requests_hard_limit", config.batch.pending_limit),
        *((name, round(1e3 * seconds)) for name, seconds in times_s.items() if seconds is not None),
    ]


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    """Bind the address and return the real port; `ListenError` says why it cannot be had."""
    try:
        # gRPC only says that it failed; the operating system says why.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if credentials is None:
            return server.add_insecure_port(target)
        return server.add_secure_port(target, credentials)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
    except RuntimeError as error:
        reason = str(error)
    raise ListenError(
        f"cannot listen on {host}:{port}: {reason}; stop what uses it or choose another --port"
    )


@contextmanager
def port_file(path: Path | None, port: int) -> Iterator[None]:
    """Keep the port in a file as long as the server serves."""
    if path is None:
        yield
        return
    try:
        with atomic_path(path) as temporary:
            temporary.write_text(f"{port}\n")
    except OSError as error:
        raise ConfigError(f"--port-file {path} cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
