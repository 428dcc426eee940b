"""`mmsr-bench catalogue`, without its flags: how long a write takes until an answer shows it.

Recommendations are asked for at one load in windows with and without writes, A B B A. In all of
them made-up items are asked for at the same rate: the windows differ by the writes alone.
"""

import asyncio
import secrets
import threading
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil, inf
from typing import Any, TypeVar

from mmsr.engine.bench.arrivals import arrival_times_s
from mmsr.engine.bench.blocks import Block
from mmsr.engine.bench.compare import compare_blocks
from mmsr.engine.bench.histories import load_histories
from mmsr.engine.bench.launch import Watch
from mmsr.engine.bench.live import order_of
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.schedule import steps
from mmsr.engine.bench.server_bench import Interrupted, Load, Subject, measured_report, open_load
from mmsr.engine.bench.shop import CONTENTS, GrpcShop, Listing, MakeItem, item_maker
from mmsr.engine.bench.summary import RunSummary
from mmsr.engine.bench.wire import STATUS_NAMES, connect
from mmsr.engine.bench.write_summary import void_writes, write_findings
from mmsr.engine.bench.writer import Pace, Span, Writer
from mmsr.engine.bench.writes import Lane

WITHOUT, WITH = "A", "B"
LANE_S = 2.0  # as many items as are written in this time: more than a write takes
FEWEST_LANES, MOST_LANES = 4, 256
WRITES_SEED = 7  # the times of writes do not follow from those of requests
SPARE_S = 60.0  # for a window to end, beyond its deadlines
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class CatalogueBench:
    """What to measure."""

    subject: Subject
    plan: RunPlan  # an open loop: one window
    writes_per_s: float
    content: str  # that new items come with
    probe_ms: float  # from one question for the made-up items to the next
    rounds: int  # of a window without writes and one with them
    ceilings: bool = True

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("writes-per-s", self.writes_per_s, 0.1, 1000.0),
            ("probe-ms", self.probe_ms, 1.0, 1000.0),
            ("rounds", self.rounds, 1, 1000),
        ):
            if not low <= value <= high:
                raise BenchError(f"{name} is {value:g}; expected {low:g} to {high:g}")
        if self.content not in CONTENTS:
            raise BenchError(f"content is {self.content!r}; expected one of {', '.join(CONTENTS)}")


class LoopThread:
    """An event loop in a thread of its own, so that a progress bar does not hold up a write."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bench-writer")
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Begin some work."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do some work and wait for it, after an interrupt too: no made-up item may be left."""
        future = self.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.result()
            raise

    def close(self) -> None:
        """End the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Session:
    """A server whose catalogue is written, and what is known of it from before."""

    loop: LoopThread
    shop: GrpcShop
    writer: Writer
    prefix: str  # of the ids of all made-up items
    before: Listing
    windows: list[str] = field(default_factory=list)  # A or B, as they were run
    futures: list["Future[None]"] = field(default_factory=list)

    def begin(self, start_s: float, plan: RunPlan, writes_per_s: float) -> None:
        """Start to write and ask, beside a run that began."""
        total_s = plan.window.total_s
        writes_s: Sequence[float] = ()
        if writes_per_s:
            seed = plan.window.seed + WRITES_SEED
            rate = steps([writes_per_s], total_s)
            writes_s = (start_s + arrival_times_s(rate, plan.traffic.arrivals, seed)).tolist()
        span = Span(
            number=len(self.windows) - 1,
            start_s=start_s,
            end_s=start_s + total_s,
            writes_s=writes_s,
        )
        self.futures.append(self.loop.start(self.writer.run(span)))

    def put_back(self) -> dict[str, Any]:
        """Delete every item that was made up; return what the catalogue is like then."""
        for future in self.futures:
            future.cancel()
        item_ids = self.writer.item_ids
        found: dict[str, Any] = {
            "prefix": self.prefix,
            "written": len(item_ids),
            "before": self.before._asdict(),
            "after": None,
            "left": None,  # of the items that were made up; None: nobody knows
            "error": None,
        }
        try:
            self.loop.run(self.shop.delete(item_ids))
            found["left"] = self.loop.run(self.shop.left(item_ids))
            found["after"] = self.loop.run(self.shop.listing())._asdict()
        except BenchError as error:
            found["error"] = str(error)
        return {**found, "same": found["after"] == found["before"]}


@contextmanager
def open_session(bench: CatalogueBench, load: Load, make_item: MakeItem) -> Iterator[Session]:
    """Connect, try a write, and remember what the catalogue holds."""
    deadline_s = bench.plan.window.deadline_ms / 1e3
    prefix = f"mmsr-bench-{secrets.token_hex(4)}"
    lanes = min(MOST_LANES, max(FEWEST_LANES, ceil(bench.writes_per_s * LANE_S)))
    loop = LoopThread()

    async def begin() -> Session:
        channel = await connect(load.subject.target)
        history = load_histories(load.bundle)[0]
        shop = GrpcShop(channel, make_item, history, deadline_s)
        await shop.find_anchor()
        before = await shop.listing()
        await shop.try_out(f"{prefix}-0-0")
        pace = Pace(probe_s=bench.probe_ms / 1e3, patience_s=deadline_s)
        writer = Writer(shop, [Lane(f"{prefix}-{n + 1}") for n in range(lanes)], pace)
        return Session(loop, shop, writer, prefix, before)

    async def end(session: Session) -> None:
        await session.shop.channel.close()

    try:
        session = loop.run(begin())
        try:
            yield session
        finally:
            loop.run(end(session))
    finally:
        loop.close()


def measure_catalogue(bench: CatalogueBench) -> ServerReport:
    """Measure every window; the catalogue is put back whatever happens."""
    load = open_load(bench.subject, bench.plan.window.seed)
    make_item = item_maker(load.bundle, bench.content, bench.plan.window.seed)
    with open_session(bench, load, make_item) as session:

        def measure() -> dict[str, Any]:
            interrupted, restored = False, {}
            try:
                for number, side in enumerate(order_of(bench.rounds)):
                    run_window(bench, load, session, (number, side))
            except KeyboardInterrupt:
                interrupted = True
            finally:
                restored = session.put_back()
            findings = catalogue_findings(bench, load, session, restored)
            if interrupted:
                raise Interrupted(findings)
            return findings

        return measured_report("catalogue", load, measure, ceilings=bench.ceilings)


def run_window(bench: CatalogueBench, load: Load, session: Session, which: tuple[int, str]) -> None:
    """Run one window, with writes if it is a B."""
    number, side = which
    # Another seed each round: the same arrivals five times would be one sample.
    window = replace(bench.plan.window, seed=bench.plan.window.seed + number // 2)
    plan = replace(bench.plan, window=window)
    writes_per_s = bench.writes_per_s if side == WITH else 0.0
    session.windows.append(side)
    load.run(plan, Watch(began=lambda start_s: session.begin(start_s, plan, writes_per_s)))
    try:
        session.futures[-1].result(timeout=window.deadline_ms / 1e3 + SPARE_S)
    except TimeoutError:
        raise BenchError("the writes of a window did not end within their deadlines") from None
    session.futures.clear()


def catalogue_findings(
    bench: CatalogueBench, load: Load, session: Session, restored: dict[str, Any]
) -> dict[str, Any]:
    """Return what was found, as JSON values."""
    writer, shop, window = session.writer, session.shop, bench.plan.window
    sides = list(zip(session.windows, load.runs, strict=False))
    memory = [mib for run in load.runs if run.process for _, mib in run.process.memory_mib]
    return {
        "writes_per_s": bench.writes_per_s,
        "probe_ms": bench.probe_ms,
        "content": bench.content,
        "windows": session.windows,
        **write_findings(writer.done, window),
        "first_details": {STATUS_NAMES[s]: text for s, text in shop.first_details.items()},
        "questions": writer.questions,
        "unanswered": shop.unanswered,
        "traffic": traffic_ratios(sides),
        "counts": {side: traffic_counts(sides, side) for side in (WITHOUT, WITH)},
        "memory_mib": {"first": memory[0], "most": max(memory), "last": memory[-1]}
        if memory
        else None,
        "restored": restored,
        "void": not_put_back(restored) or void_writes(writer.done, window, shop.misled),
    }


def not_put_back(restored: dict[str, Any]) -> str | None:
    """Say what is left of the made-up items, or None if nothing is."""
    if restored["left"] == 0:
        return None
    how_many = "perhaps some" if restored["left"] is None else f"{restored['left']:,}"
    said = f" ({restored['error']})" if restored["error"] else ""
    return (
        f"the catalogue is not as it was{said}: {how_many} of {restored['written']:,} items are "
        f"left; delete those whose ids begin with {restored['prefix']}"
    )


def traffic_ratios(sides: Sequence[tuple[str, RunSummary]]) -> list[dict[str, Any]]:
    """Return the requests of the windows with writes over those without; void ones do not count."""
    blocks: dict[str, list[Block]] = {WITHOUT: [], WITH: []}
    for side, run in sides:
        if run.void is None:
            blocks[side] += run.blocks
    if not all(blocks.values()):
        return []
    [found] = compare_blocks({"": blocks[WITHOUT]}, {"": blocks[WITH]}, inf)
    return [asdict(ratio) for ratio in found.ratios]


def traffic_counts(sides: Sequence[tuple[str, RunSummary]], side: str) -> dict[str, int]:
    """Return what became of the requests of all windows of one side."""
    runs = [run for which, run in sides if which == side]
    return {
        "windows": len(runs),
        "void": sum(run.void is not None for run in runs),
        "requests": sum(run.requests for run in runs),
        "refused": sum(sum(run.refusals.values()) for run in runs),
        "failed": sum(sum(run.errors.values()) for run in runs),
    }
