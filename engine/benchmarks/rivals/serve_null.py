"""`mmsr-serve` with a runner that computes nothing: what is left is the server itself."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import uvloop

from benchmarks.rivals.shared_model import read_order
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.compute import ComputeThread
from mmsr.engine.config import ServeConfig, ServerConfig
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.server import Server


class NullRunner:
    """Answers every request with rows 1 to K."""

    name = "null"

    def __init__(self, spec: GraphSpec) -> None:
        self.spec = spec

    def bind(self, name: str, array: AnyArray) -> None:
        """Use nothing."""

    def write_rows(
        self, name: str, rows: Sequence[int], values: AnyArray, *, axis: int = 0
    ) -> None:
        """Use nothing."""

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Return the same rows for everybody."""
        requests, k = len(batch["length"]), int(batch["k"][0])
        rows_K = np.arange(1, k + 1, dtype=np.int64)
        scores_K = np.linspace(1.0, 0.5, k, dtype=np.float32)
        return {
            "rows": np.broadcast_to(rows_K, (requests, k)),
            "scores": np.broadcast_to(scores_K, (requests, k)),
            "states": np.zeros((requests, 1), np.float32),
        }

    def close(self) -> None:
        """Free nothing."""


async def serve() -> None:
    """Load the bundle as ever, then take its runner away; until SIGTERM."""
    order, loop = read_order(), asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    compute = ComputeThread(loop)
    folder = Path(order.bundle)
    where = ServerConfig(repository=folder, port=order.port, lame_duck_s=0)
    server = Server(ServeConfig(server=where), compute)
    await server.listen()
    compute.start()
    await server.load(folder)
    assert server.deployment is not None
    model = server.deployment.model
    model.runner = NullRunner(model.runner.spec)
    await stopping.wait()
    await server.stop()
    compute.close()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
