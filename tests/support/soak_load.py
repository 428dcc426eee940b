"""The load of a soak, as a process of its own: `soak_load.py FOLDER PARENT`.

Window after window over the same connections: a closed loop on the bare echo and on the server,
then an open loop at a share of what the server could do, with the echo asked beside it. Windows are
short, so that the load follows a machine that is shared. What came of a round of them is
`round-N.json`; every so many requests and replies, as they were on the wire, are `kept-N.jsonl`.
Ends after its rounds, or with the PARENT process.
"""

import asyncio
import base64
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from mmsr.engine.bench.interrupt import end_with
from mmsr.engine.bench.latency import PERCENTILES, percentile_name, quantile
from mmsr.engine.bench.load import Measured, measure
from mmsr.engine.bench.plan import RunPlan, Traffic, Window
from mmsr.engine.bench.samples import OK, Answer, Samples, join_samples
from mmsr.engine.bench.wire import STATUS_NAMES, GrpcCaller, Seen, connect

CALLERS = 16  # of a closed loop
DEADLINE_MS = 30_000  # of a request: what is slow shows as latency


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """What the process is told."""

    target: str
    echo: str
    rounds: int
    windows: int  # of a round
    closed_s: float  # of each closed loop
    open_s: float
    share: float  # of the closed loop's rate, in the open loop
    echo_per_s: float  # how often the echo is asked beside it
    kept_every: int  # requests
    requests: list[str]  # encoded, in base64
    seed: int = 0


class Keeper:
    """A caller that keeps some requests with their replies."""

    def __init__(self, caller: GrpcCaller, every: int) -> None:
        self._caller = caller
        self._every = every
        self._count = 0
        self._open: dict[Awaitable[bytes], tuple[bytes, float]] = {}
        self.kept: list[dict[str, Any]] = []

    def begin(self, request: bytes) -> Awaitable[bytes]:
        """Send an encoded request."""
        sent_s = time.perf_counter()
        reply = self._caller.begin(request)
        self._count += 1
        if self._count % self._every == 0:
            self._open[reply] = request, sent_s
        return reply

    async def finish(self, reply: Awaitable[bytes]) -> tuple[int, Answer]:
        """Wait for the reply."""
        found = await self._caller.finish(reply)
        opened = self._open.pop(reply, None)
        if opened is not None and found[0] == OK:
            request, sent_s = opened
            done_s, raw = time.perf_counter(), await reply
            self.kept.append(
                {
                    "request": base64.b64encode(request).decode(),
                    "reply": base64.b64encode(raw).decode(),
                    "sent_s": sent_s,
                    "done_s": done_s,
                }
            )
        return found


class Load:
    """The connections, and the rounds over them."""

    def __init__(self, plan: LoadPlan, server: Keeper, echo: GrpcCaller, seen: Seen) -> None:
        self.plan = plan
        self.server = server
        self.echo = echo
        self.seen = seen
        self.requests = [base64.b64decode(text) for text in plan.requests]

    async def round(self, number: int) -> dict[str, Any]:
        """Run one round."""
        plan = self.plan
        began_s = time.perf_counter()
        seeds = range(number * plan.windows, (number + 1) * plan.windows)
        echo, closed, open_, beside = map(
            list, zip(*[await self._one(s) for s in seeds], strict=True)
        )
        sent, asked = whole(open_), whole(beside)
        failed = Counter(
            STATUS_NAMES[status]
            for samples in (sent, whole(closed))
            for status in samples.status_R.tolist()
            if status != OK
        )
        return {
            "began_s": began_s,
            "ended_s": time.perf_counter(),
            "capacity_per_s": per_s(closed),
            "echo_per_s": per_s(echo),
            "rate_per_s": len(sent) / sum(measured.sent_for_s for measured in open_),
            "requests": len(sent) + len(whole(closed)),
            "failed": dict(failed),
            "said": {STATUS_NAMES[s]: text for s, text in self.seen.first_details.items()},
            "latency_ms": latencies(sent),
            "echo_ms": latencies(asked),
            "lag_ms": lag_ms(sent),
            "load_average": os.getloadavg()[0],
        }

    async def _one(self, seed: int) -> tuple[Measured, Measured, Measured, Measured]:
        """Run one window; return both closed loops, then both open ones."""
        plan = self.plan
        echo = await self._run(self.echo, self._closed(seed))
        closed = await self._run(self.server, self._closed(seed))
        rate_per_s = plan.share * per_s([closed])
        open_, beside = await asyncio.gather(
            self._run(self.server, self._open(seed, rate_per_s)),
            self._run(self.echo, self._open(seed, plan.echo_per_s)),
        )
        return echo, closed, open_, beside

    async def _run(self, caller: Any, plan: RunPlan) -> Measured:
        return await measure(plan, caller, self.requests, asyncio.Event())

    def _closed(self, seed: int) -> RunPlan:
        return RunPlan(concurrency=CALLERS, window=self._window(self.plan.closed_s, seed))

    def _open(self, seed: int, rate_per_s: float) -> RunPlan:
        window = self._window(self.plan.open_s, seed)
        return RunPlan(rate_per_s=rate_per_s, window=window, traffic=Traffic(choice="uniform"))

    def _window(self, seconds: float, seed: int) -> Window:
        return Window(
            warm_up_s=0.0,
            duration_s=seconds,
            deadline_ms=DEADLINE_MS,
            seed=self.plan.seed + seed,
        )


def whole(parts: Sequence[Measured]) -> Samples:
    """Return the samples of several windows."""
    return join_samples([measured.samples for measured in parts])


def per_s(parts: Sequence[Measured]) -> float:
    """Return how many requests a second were answered."""
    answered = int((whole(parts).status_R == OK).sum())
    return answered / sum(measured.sent_for_s for measured in parts)


def latencies(samples: Samples) -> dict[str, float]:
    """Return p50, p90 and p99 from the intended times, in ms; what failed is infinitely slow."""
    took_ms_R = (samples.done_s_R - samples.intended_s_R) * 1e3
    took_ms_R = np.where(samples.status_R == OK, took_ms_R, np.inf)
    return {percentile_name(p): quantile(took_ms_R, p) for p in PERCENTILES}


def lag_ms(samples: Samples) -> float:
    """Return the p99 of how late the generator was, in ms."""
    return quantile((samples.sent_s_R - samples.intended_s_R) * 1e3, 0.99)


async def run(plan: LoadPlan, folder: Path) -> None:
    """Connect and run all rounds."""
    seen = Seen()
    channel, echo_channel = await connect(plan.target), await connect(plan.echo)
    try:
        keeper = Keeper(GrpcCaller(channel, DEADLINE_MS, seen), plan.kept_every)
        load = Load(plan, keeper, GrpcCaller(echo_channel, DEADLINE_MS, Seen()), seen)
        gc.freeze()
        for number in range(plan.rounds):
            found = await load.round(number)
            lines = [json.dumps(kept) + "\n" for kept in keeper.kept]
            keeper.kept.clear()
            (folder / f"kept-{number}.jsonl").write_text("".join(lines))
            # The last, and whole at once: its presence says that all is there.
            part = folder / f"round-{number}.part"
            part.write_text(json.dumps(found))
            part.rename(folder / f"round-{number}.json")
            gc.collect()
    finally:
        await channel.close()
        await echo_channel.close()


def write_plan(plan: LoadPlan, folder: Path) -> None:
    """Write what the process is to do."""
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))


def main() -> None:
    """Run what the folder says."""
    folder = Path(sys.argv[1])
    end_with(int(sys.argv[2]))
    plan = LoadPlan(**json.loads((folder / "plan.json").read_text()))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(plan, folder))


if __name__ == "__main__":
    main()
