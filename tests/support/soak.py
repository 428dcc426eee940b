"""A soak: a real `mmsr-serve` under load for minutes, with newer bundles and a catalogue written.

The load is a share of what the server can do at that minute, so that on a shared machine it stays
that share, and what is judged is relative to a bare echo asked at the same time.
"""

import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from support import soak_shop
from support.serving import PATIENCE_S, Served, start
from support.soak_beside import OtherMethods, Promoter, Readings, Repeated, wrong
from support.soak_load import LoadPlan, write_plan
from support.soak_oracle import History, Oracle
from support.soak_verdict import Round, Soak
from support.tiny_bundle import Shop

from mmsr.engine.bench.ceilings import echo_server
from mmsr.v1 import recommender_pb2 as pb

LOAD = Path(__file__).with_name("soak_load.py")
# What comes while the process does not get its turn waits: a refusal would be a failed request.
PATIENT = """
[batch]
pending_limit = 8192
queue_limit = 16384
[security]
connection_calls = 8192
"""
POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class SoakPlan:
    """How long, and how much of everything."""

    rounds: int
    windows: int  # of a round: after each the load follows the capacity
    closed_s: float  # of each closed loop, two a window
    open_s: float
    settled: int  # rounds after which memory is to stand still
    reload_every_s: float
    writes_per_s: float
    beside_every_s: float  # all other methods once
    share: float = 0.7  # of the capacity
    echo_per_s: float = 50.0
    checked_every: int = 100  # replies
    seed: int = 0

    @property
    def round_s(self) -> float:
        """Return how long a round is."""
        return self.windows * (2 * self.closed_s + self.open_s)


SHORT = SoakPlan(
    rounds=6,
    windows=2,
    closed_s=0.5,
    open_s=3.5,
    settled=2,
    reload_every_s=6.0,
    writes_per_s=10.0,
    beside_every_s=1.0,
)


def long_plan(minutes: int) -> SoakPlan:
    """Return a soak of so many minutes, each a round."""
    return SoakPlan(
        rounds=minutes,
        windows=10,
        closed_s=0.5,
        open_s=5.0,
        settled=min(5, minutes // 2),
        reload_every_s=30.0,
        writes_per_s=5.0,
        beside_every_s=1.0,
    )


def soak(plan: SoakPlan, root: Path, tell: Callable[[str], None]) -> Soak:
    """Run it; `tell` gets a line a round."""
    shops = soak_shop.publish_bundles(root / "repository")
    catalogue = ("--catalogue", str(root / "catalogue.db"))
    settings = root / "serve.toml"
    settings.write_text(PATIENT)
    served = start(root / "repository", *catalogue, "--config", str(settings))
    try:
        running = Running(plan, served, shops, root)
        running.run(tell)
        code = served.stop()
        problems = [line for line in served.lines if " ERROR " in line or "Traceback" in line]
        if code:
            problems.append(f"the server ended with {code}")
        return replace(running.found(), log_problems=problems)
    finally:
        served.process.kill()
        served.end()


class Running:
    """One soak."""

    def __init__(self, plan: SoakPlan, served: Served, shops: Sequence[Shop], root: Path) -> None:
        self.plan = plan
        self.root = root
        self.history = History()
        self.oracle = Oracle(shops, self.history)
        self.rounds: list[Round] = []
        self.wrong: list[str] = []
        self.said: dict[str, str] = {}
        self.checked = 0
        self.bundles: set[str] = set()
        bundles = [shop.folder.name for shop in shops]
        writes = soak_shop.Writes(shops[0], plan.seed)
        self.target = served.target
        self.writer = soak_shop.Writer(served.target, writes, plan.writes_per_s, self.history)
        self.others = OtherMethods(served.target, plan.seed)
        self.promoter = Promoter(served, root / "repository", bundles)
        self.readings = Readings(served.process.pid)

    def run(self, tell: Callable[[str], None]) -> None:
        """Run all rounds."""
        plan = self.plan
        with ExitStack() as stack:
            stack.callback(self.others.close)
            for thread in (
                self.writer,
                Repeated("soak-reloads", plan.reload_every_s, self.promoter.promote),
                Repeated("soak-others", plan.beside_every_s, self.others.call_all),
                Repeated("soak-readings", min(1.0, plan.round_s / 20), self.readings.take),
            ):
                thread.start()
                stack.callback(thread.stop)
            generator = stack.enter_context(self._load())
            for number in range(plan.rounds):
                raw = self._wait(generator, number)
                self._check(number)
                self.rounds.append(self._round(raw))
                tell(told(number, self.rounds[-1]))
            assert generator.wait(PATIENCE_S) == 0
        self._check_others()

    def found(self) -> Soak:
        """Return what was measured."""
        return Soak(
            rounds=self.rounds,
            settled=self.plan.settled,
            checked=self.checked,
            wrong=self.wrong,
            reloads=self.promoter.done,
            asked_reloads=self.promoter.asked,
            writes=self.writer.count,
            failed_writes=self.writer.failed,
            beside=self.others.calls,
            failed_beside=self.others.failed,
            bundles=sorted(self.bundles),
            said=self.said,
        )

    @contextmanager
    def _load(self) -> Iterator["subprocess.Popen[bytes]"]:
        folder = self.root / "load"
        folder.mkdir()
        plan = self.plan
        requests = [base64.b64encode(r).decode() for r in soak_shop.requests(plan.seed)]
        with echo_server("uvloop", 10) as echo:
            assert echo is not None
            told = LoadPlan(
                target=self.target,
                echo=echo[0],
                rounds=plan.rounds,
                windows=plan.windows,
                closed_s=plan.closed_s,
                open_s=plan.open_s,
                share=plan.share,
                echo_per_s=plan.echo_per_s,
                kept_every=plan.checked_every,
                requests=requests,
                seed=plan.seed,
            )
            write_plan(told, folder)
            command = [sys.executable, str(LOAD), str(folder), str(os.getpid())]
            process = subprocess.Popen(command, cwd=LOAD.parents[1])
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _wait(self, generator: "subprocess.Popen[bytes]", number: int) -> dict[str, Any]:
        """Return what came of a round, once it is over."""
        path = self.root / "load" / f"round-{number}.json"
        looked = threading.Event()
        deadline = time.monotonic() + self.plan.round_s + PATIENCE_S
        while not path.exists():
            assert generator.poll() in (None, 0), f"the load ended with {generator.returncode}"
            assert time.monotonic() < deadline, f"round {number} did not end"
            looked.wait(POLL_S)
        found: dict[str, Any] = json.loads(path.read_text())
        self.said |= found["said"]
        return found

    def _check(self, number: int) -> None:
        """Compare the replies that were kept with brute force."""
        path = self.root / "load" / f"kept-{number}.jsonl"
        for line in path.read_text().splitlines():
            kept = json.loads(line)
            request = pb.RecommendRequest.FromString(base64.b64decode(kept["request"]))
            reply = pb.RecommendResponse.FromString(base64.b64decode(kept["reply"]))
            problem = self.oracle.problem(request, reply, kept["sent_s"], kept["done_s"])
            self.bundles.add(reply.model_version)
            self.checked += 1
            if problem is not None:
                self.wrong.append(problem)
        path.unlink()
        self._check_others()

    def _check_others(self) -> None:
        met, self.others.met = self.others.met, []
        self.checked += len(met)
        self.wrong += wrong(met, self.oracle)

    def _round(self, raw: dict[str, Any]) -> Round:
        readings = self.readings.within(raw["began_s"], raw["ended_s"])
        first, last = readings[0], readings[-1]
        seconds = raw["ended_s"] - raw["began_s"]
        share = (last.at_s - first.at_s) / seconds
        return Round(
            seconds=seconds,
            capacity_per_s=raw["capacity_per_s"],
            echo_per_s=raw["echo_per_s"],
            rate_per_s=raw["rate_per_s"],
            requests=raw["requests"],
            failed=raw["failed"],
            latency_ms=raw["latency_ms"],
            echo_ms=raw["echo_ms"],
            lag_ms=raw["lag_ms"],
            cpu_us=(last.cpu_s - first.cpu_s) * 1e6 / (raw["requests"] * share),
            memory_mib=min(reading.memory_mib for reading in readings),
            descriptors=min(reading.descriptors for reading in readings),
            threads=min(reading.threads for reading in readings),
            children=min(reading.children for reading in readings),
            load_average=raw["load_average"],
        )


def told(number: int, found: Round) -> str:
    """Return a round in one line."""
    return (
        f"{number + 1}: {found.rate_per_s:.0f}/s, p99 {found.latency_ms['p99']:.1f} ms, "
        f"{found.ratio:.1f} x echo, {found.memory_mib:.1f} MiB, {found.descriptors} descriptors, "
        f"{found.threads} threads, {found.cpu_us:.0f} us a request, load {found.load_average:.1f}"
    )
