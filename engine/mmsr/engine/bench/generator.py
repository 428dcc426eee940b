"""A process that sends: `python -m mmsr.engine.bench.generator FOLDER RANK PARENT`.

A process of its own, so that neither a progress bar nor a table steals time from the sending;
several, where one core cannot send enough. Each says in the folder when it is connected, and all
begin at the instant that is then written there. An interrupt, or the end of the PARENT process,
ends the run early; what was measured so far is written all the same.
"""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from types import ModuleType

from mmsr.bundle.errors import MmsrError
from mmsr.engine.bench.exchange import (
    Order,
    Outcome,
    read_order,
    read_start,
    say_ready,
    write_outcome,
)
from mmsr.engine.bench.interrupt import end_with
from mmsr.engine.bench.load import Measured, Share, Timing, measure
from mmsr.engine.bench.wire import STATUS_NAMES, GrpcCaller, Seen, connect

POLL_S = 0.005  # for the instant to begin at


async def generate(order: Order, folder: Path, rank: int) -> tuple[Measured, Seen] | None:
    """Connect, wait for the others, run the plan and close; None if told to end before that."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    seen = Seen()
    channel = await connect(order.target)
    try:
        caller = GrpcCaller(channel, order.plan.window.deadline_ms, seen)
        say_ready(folder, rank)
        start_s = await _start(folder, stop)
        if start_s is None:
            return None
        gc.collect()
        gc.freeze()  # a full collection in the middle of a run would be counted as latency
        share = Share(rank=rank, processes=order.plan.traffic.generators)
        timing = Timing(start_s=start_s)
        return await measure(order.plan, caller, order.requests, stop, share, timing), seen
    finally:
        await channel.close()


async def _start(folder: Path, stop: asyncio.Event) -> float | None:
    while (start_s := read_start(folder)) is None:
        if stop.is_set():
            return None
        await asyncio.sleep(POLL_S)
    return start_s


def _uvloop() -> ModuleType | None:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    module: ModuleType = uvloop
    return module


def run_folder(folder: Path, rank: int) -> None:
    """Do this process's share of what `exchange.write_order` wrote into `folder`."""
    order = read_order(folder)
    uvloop = _uvloop()
    factory = asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(generate(order, folder, rank))
    if found is None:
        return
    measured, seen = found
    outcome = Outcome(
        sent_for_s=measured.sent_for_s,
        cpu_s=measured.cpu_s,
        interrupted=measured.interrupted,
        event_loop="asyncio" if uvloop is None else "uvloop",
        model_versions=list(seen.model_versions),
        first_details={STATUS_NAMES[s]: text for s, text in seen.first_details.items()},
    )
    write_outcome(folder, rank, outcome, measured.samples)


def main() -> None:
    """Run for the folder named on the command line; one line on standard error if it cannot."""
    end_with(int(sys.argv[3]))
    try:
        run_folder(Path(sys.argv[1]), int(sys.argv[2]))
    except MmsrError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
