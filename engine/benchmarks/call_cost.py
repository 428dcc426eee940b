"""What meters, a canary, traces and tokens cost a call, in CPU time, beside a call over loopback.

    python engine/benchmarks/call_cost.py

First the frame of a call alone (parse, gatekeeper, meter; an answer of 10 items that is ready),
then calls over a real socket in one process, client and server together. Variants are interleaved,
there and back, so that a busy machine hits all of them; the least of the rounds is given.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mmsr.engine.call_log import CallLog
from mmsr.engine.call_stats import CallStats
from mmsr.engine.gatekeeper import TokenGate
from mmsr.engine.limits import ClientLimits, Rate
from mmsr.engine.meters import Meters
from mmsr.engine.rpc import Call, Gatekeeper, Meter, Rpc, register
from mmsr.engine.serving import Serving
from mmsr.engine.split import CanaryConfig
from mmsr.engine.tokens import TokenFile, entry_of, new_token
from mmsr.engine.tracing import Tracing
from mmsr.engine.trial import Trial
from mmsr.v1 import recommender_pb2 as pb

SERVICE = "mmsr.v1.Recommender"
METHOD = f"{SERVICE}/Recommend"
CLIENTS = 10
CALLS = 4000
SOCKET_CALLS = 2000
CONCURRENCY = 16
ROUNDS = 8
TOKEN = new_token()
METADATA = (("authorization", f"Bearer {TOKEN}"), ("user-agent", "grpc-python-asyncio/1.85.1"))
RESPONSE = pb.RecommendResponse(
    item_ids=[f"item-{n}" for n in range(10)],
    scores=[0.5] * 10,
    model_version="0123456789abcdef",
    queue_us=200,
    compute_us=3600,
    batch_size=8,
)
REQUEST = pb.RecommendRequest(history=[f"item-{n}" for n in range(20)], k=10).SerializeToString()


class Context:
    """As much of gRPC's context as the frame of a call asks for."""

    def time_remaining(self) -> float | None:
        """Say that there is a deadline."""
        return 0.05

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return what a client with a token sends."""
        return METADATA


async def answer(request: pb.RecommendRequest, call: Call) -> pb.RecommendResponse:
    """Answer at once: the null runner."""
    return RESPONSE


def variants(folder: Path) -> dict[str, Rpc]:
    """Return the frames that are compared."""
    path = folder / "tokens.toml"
    entries = [entry_of(f"c{n}", ["recommend"], new_token()) for n in range(CLIENTS - 1)]
    path.write_text("\n".join([*entries, entry_of("bench", ["recommend"], TOKEN)]))
    tokens = TokenFile(path, time.monotonic)
    tokens.load()
    gate = TokenGate(tokens, ClientLimits(Rate(1e9, 1e9)), time.monotonic)
    spans = InMemorySpanExporter()

    def rpc(gatekeeper: Gatekeeper | None, *meters: Meter) -> Rpc:
        return Rpc(time.monotonic, gatekeeper, Meters(meters) if meters else None)

    def stats() -> CallStats:
        return CallStats(Serving("stable"))

    return {
        "bare": rpc(None),
        "metrics and call log": rpc(None, stats(), CallLog()),
        "and a canary's limits": rpc(None, stats(), CallLog(), trial()),
        "and traces, 1 %": rpc(None, stats(), CallLog(), Tracing(spans, 0.01, "0")),
        f"and {CLIENTS} tokens with rates": rpc(gate, stats(), CallLog()),
    }


def trial() -> Trial:
    """Return the trial of a canary that gives every answer."""
    limits = CanaryConfig(label="canary", max_error_percent=1, max_p99_ms=60_000)
    serving = Serving("stable", limits.split)
    found = Trial(limits, serving, time.monotonic)
    for label, version in (("stable", "fedcba9876543210"), ("canary", RESPONSE.model_version)):
        deployment: Any = SimpleNamespace(model=SimpleNamespace(version=version))
        serving.use(label, deployment)
    return found


async def frame_us(rpc: Rpc) -> float:
    """Return the CPU time of one call of the frame alone, in microseconds."""
    handler: Any = rpc.unary(METHOD, pb.RecommendRequest, answer).unary_unary
    context = Context()
    began = time.process_time()
    for _ in range(CALLS):
        await handler(REQUEST, context)
    return (time.process_time() - began) / CALLS * 1e6


async def socket_us(rpc: Rpc) -> float:
    """Return the CPU time of one call over loopback, client and server together."""
    server = grpc.aio.server()
    handlers = {"Recommend": rpc.unary(METHOD, pb.RecommendRequest, answer)}
    register(server, SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(f"/{METHOD}")

        async def ask(calls: int) -> None:
            for _ in range(calls):
                await call(REQUEST, metadata=METADATA[:1], timeout=30)

        await ask(50)
        began = time.process_time()
        each = SOCKET_CALLS // CONCURRENCY
        await asyncio.gather(*(ask(each) for _ in range(CONCURRENCY)))
        spent_s = time.process_time() - began
    await server.stop(0)
    return spent_s / (each * CONCURRENCY) * 1e6


async def compare(
    rpcs: dict[str, Rpc], measure: Callable[[Rpc], Coroutine[None, None, float]]
) -> dict[str, float]:
    """Return the least of each variant's rounds."""
    found: dict[str, list[float]] = {name: [] for name in rpcs}
    for number in range(ROUNDS):
        names = list(rpcs) if number % 2 == 0 else list(reversed(rpcs))
        for name in names:
            found[name].append(await measure(rpcs[name]))
    return {name: min(values) for name, values in found.items()}


async def measure_all() -> str:
    """Return a table of all variants."""
    with tempfile.TemporaryDirectory() as folder:
        rpcs = variants(Path(folder))
        alone = await compare(rpcs, frame_us)
        whole = await compare(rpcs, socket_us)
    lines = [f"{'':<32}{'frame, us':>10}{'added':>8}{'loopback, us':>14}{'ratio':>8}"]
    for name in rpcs:
        added, ratio = alone[name] - alone["bare"], whole[name] / whole["bare"]
        lines.append(
            f"{name:<32}{alone[name]:>10.1f}{added:>8.1f}{whole[name]:>14.1f}{ratio:>8.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(asyncio.run(measure_all()) + "\n")
