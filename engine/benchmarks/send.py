"""Sends encoded requests from a process of its own and notes when, on the machine's clock.

The times are those of CLOCK_MONOTONIC, which all processes of a machine share: so another process
can say afterwards what it was doing at the time. `python send.py ORDER` is that process.
"""

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

# R requests

METHOD = "/mmsr.v1.Recommender/Recommend"
DEADLINE_S = 5.0
LAST_ANSWERS_S = 6.0
Times = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sent:
    """When each request was meant to be sent, was sent and was done, in seconds."""

    intended_s_R: Times
    sent_s_R: Times
    done_s_R: Times
    failed_R: npt.NDArray[np.bool_]


class Sending:
    """A process that sends until it is stopped."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self._folder = folder

    def stop(self) -> Sent:
        """End it and return what it has noted."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait(60.0):
            raise SystemExit("error: the sender failed; see above")
        with np.load(self._folder / "sent.npz", allow_pickle=False) as arrays:
            times, failed = arrays["times"], arrays["failed"]
        return Sent(intended_s_R=times[0], sent_s_R=times[1], done_s_R=times[2], failed_R=failed)


@contextmanager
def send_in_process(
    target: str, requests: list[bytes], *, rate_per_s: float | None = None, callers: int = 0
) -> Iterator[Sending]:
    """Send at Poisson times, or as fast as `callers` who wait for each answer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        order = {"target": target, "rate_per_s": rate_per_s, "callers": callers}
        (folder / "order.json").write_text(
            json.dumps({**order, "requests": [request.hex() for request in requests]})
        )
        process = subprocess.Popen(
            [sys.executable, __file__, name], stdin=subprocess.PIPE, text=True
        )
        try:
            yield Sending(process, folder)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


class Notes:
    """One line a request."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float, float]] = []
        self.failed: list[bool] = []

    async def ask(self, call: Any, request: bytes, intended_s: float) -> None:
        """Send one request now and note how it ended."""
        sent_s, failed = time.monotonic(), False
        try:
            await call(request, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            failed = True
            sys.stderr.write(f"failed: {error.code().name}: {error.details()}\n")
        self.times.append((intended_s, sent_s, time.monotonic()))
        self.failed.append(failed)


async def open_loop(call: Any, requests: list[bytes], rate_per_s: float, notes: Notes) -> None:
    """Send at Poisson times until cancelled."""
    random = np.random.default_rng(0)
    pending: set[asyncio.Task[None]] = set()
    at, number = time.monotonic(), 0
    try:
        while True:
            at += random.exponential(1 / rate_per_s)
            wait_s = at - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            request = requests[number % len(requests)]
            task = asyncio.create_task(notes.ask(call, request, at))
            pending.add(task)
            task.add_done_callback(pending.discard)
            number += 1
    finally:
        if pending:
            await asyncio.wait(pending, timeout=LAST_ANSWERS_S)


async def closed_loop(call: Any, requests: list[bytes], callers: int, notes: Notes) -> None:
    """Let callers send one request after the other until cancelled."""

    async def caller(number: int) -> None:
        while True:
            await notes.ask(call, requests[number % len(requests)], time.monotonic())
            number += callers

    await asyncio.gather(*map(caller, range(callers)))


async def send(folder: Path) -> None:
    """Do as ordered until standard input ends."""
    order = json.loads((folder / "order.json").read_text())
    requests = list(map(bytes.fromhex, order["requests"]))
    notes = Notes()
    gc.collect()
    gc.freeze()
    async with grpc.aio.insecure_channel(order["target"]) as channel:
        await channel.channel_ready()
        call: Any = channel.unary_unary(METHOD)
        if order["callers"]:
            work = closed_loop(call, requests, order["callers"], notes)
        else:
            work = open_loop(call, requests, order["rate_per_s"], notes)
        sending = asyncio.create_task(work)
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.wait({sending, asyncio.ensure_future(ended)}, return_when="FIRST_COMPLETED")
        sending.cancel()
        await asyncio.wait({sending})
    np.savez(folder / "sent.npz", times=np.array(notes.times).T, failed=np.array(notes.failed))


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(send(Path(sys.argv[1])))
