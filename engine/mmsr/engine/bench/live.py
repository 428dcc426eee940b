"""`mmsr-bench compare --live`: two running servers, measured in turn so that drift hits both.

A B, B A, A B, …: whatever a shared machine does slowly (clocks, neighbours, caches) falls on both
sides alike. The servers idle while the other one is measured.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from mmsr.engine.bench.blocks import Block
from mmsr.engine.bench.compare import CompareReport, compare_blocks
from mmsr.engine.bench.machine import Environment, describe_environment
from mmsr.engine.bench.plan import BenchError, RunPlan
from mmsr.engine.bench.server_bench import Load, Subject, open_load, require_answers


@dataclass(frozen=True, kw_only=True)
class LiveBench:
    """What to compare."""

    subject: Subject  # its target is A
    other: str  # target B
    plans: Sequence[RunPlan]
    rounds: int
    max_regression: float

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= 1000:
            raise BenchError(f"rounds is {self.rounds}; expected 1 to 1000")


def order_of(rounds: int) -> list[str]:
    """Return A B B A A B … for so many rounds."""
    return [side for number in range(rounds) for side in ("AB" if number % 2 == 0 else "BA")]


def compare_live(bench: LiveBench) -> CompareReport:
    """Measure both in turn; an interrupt keeps the rounds that both have."""
    environment = describe_environment()
    seed = bench.plans[0].window.seed
    loads = {
        "A": open_load(bench.subject, seed),
        "B": open_load(replace(bench.subject, target=bench.other, server_pid=None), seed),
    }
    interrupted = False
    turns: list[str] = []  # whose each run is
    try:
        for number, name in enumerate(order_of(bench.rounds)):
            for plan in bench.plans:
                # Another seed each round: the same arrivals five times would be one sample.
                window = replace(plan.window, seed=plan.window.seed + number // 2)
                turns.append(name)
                loads[name].run(replace(plan, window=window))
    except KeyboardInterrupt:
        interrupted = True
    for load in loads.values():
        require_answers(load)
    # An interrupted run may have brought nothing back; it is the last one.
    made = {name: iter(load.runs) for name, load in loads.items()}
    runs = [run for name in turns if (run := next(made[name], None)) is not None]
    return CompareReport(
        environment=environment,
        a=_side(loads["A"], environment),
        b=_side(loads["B"], environment),
        max_regression=bench.max_regression,
        runs=compare_blocks(live_blocks(loads["A"]), live_blocks(loads["B"]), bench.max_regression),
        interrupted=interrupted,
        void=any(run.void for run in runs),
        load_runs=[asdict(run) for run in runs],
        order=turns[: len(runs)],
    )


def live_blocks(load: Load) -> dict[str, list[Block]]:
    """Return the blocks of one side by what was run; void runs do not count."""
    found: dict[str, list[Block]] = {}
    for run in load.runs:
        if run.void is None:
            found.setdefault(run.plan.name, []).extend(run.blocks)
    return found


def _side(load: Load, environment: Environment) -> dict[str, object]:
    versions = sorted({version for run in load.runs for version in run.model_versions})
    return {
        "name": load.subject.target,
        "scenario": "live",
        "bundle_id": ", ".join(versions),
        "command": environment.command,
        "commit": environment.commit,
        "time": environment.time,
        "processor": environment.processor,
        "cores": environment.cores,
    }
