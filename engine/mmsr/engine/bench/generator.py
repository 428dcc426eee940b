"""The process that sends: `python -m mmsr.engine.bench.generator FOLDER PARENT`.

A process of its own, so that neither a progress bar nor a table steals time from the sending.
An interrupt, or the end of the PARENT process, ends the run early; what was measured so far is
written all the same.
"""

import asyncio
import gc
import signal
import sys
from pathlib import Path
from types import ModuleType

from mmsr.bundle.errors import MmsrError
from mmsr.engine.bench.exchange import Outcome, read_order, write_outcome
from mmsr.engine.bench.interrupt import end_with
from mmsr.engine.bench.load import Measured, measure
from mmsr.engine.bench.plan import RunPlan
from mmsr.engine.bench.wire import STATUS_NAMES, GrpcCaller, Seen, connect


async def generate(target: str, plan: RunPlan, requests: list[bytes]) -> tuple[Measured, Seen]:
    """Connect, run the plan and close; SIGINT and SIGTERM end it early."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    seen = Seen()
    channel = await connect(target)
    try:
        caller = GrpcCaller(channel, plan.window.deadline_ms, seen)
        gc.collect()
        gc.freeze()  # a full collection in the middle of a run would be counted as latency
        return await measure(plan, caller, requests, stop), seen
    finally:
        await channel.close()


def _uvloop() -> ModuleType | None:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    module: ModuleType = uvloop
    return module


def run_folder(folder: Path) -> None:
    """Do what `exchange.write_order` wrote into `folder`."""
    target, plan, requests = read_order(folder)
    uvloop = _uvloop()
    factory = asyncio.new_event_loop if uvloop is None else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        measured, seen = runner.run(generate(target, plan, requests))
    outcome = Outcome(
        sent_for_s=measured.sent_for_s,
        cpu_s=measured.cpu_s,
        interrupted=measured.interrupted,
        event_loop="asyncio" if uvloop is None else "uvloop",
        model_versions=sorted(seen.model_versions),
        first_details={STATUS_NAMES[s]: text for s, text in seen.first_details.items()},
    )
    write_outcome(folder, outcome, measured.samples)


def main() -> None:
    """Run for the folder named on the command line; one line on standard error if it cannot."""
    end_with(int(sys.argv[2]))
    try:
        run_folder(Path(sys.argv[1]))
    except MmsrError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
