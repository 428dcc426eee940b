"""A load report made by real code from requests in virtual time."""

from support.queue_in_virtual_time import measure_virtually, stalled

from mmsr.engine.bench.ceilings import Ceilings
from mmsr.engine.bench.exchange import Outcome
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import RunPlan, Traffic, Window
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.summary import RunSummary, summarise

WINDOW = Window(warm_up_s=1.0, duration_s=8.0)
TRAFFIC = Traffic(slo_ms=20.0)


def run_of(plan: RunPlan, stall_s: float = 0.0) -> RunSummary:
    """Measure one worker of 1.5 ms, which may stall in every fourth second."""
    ready_at = stalled(4.0, stall_s) if stall_s else None
    measured = measure_virtually(plan, 0.0015, ready_at)
    outcome = Outcome(
        sent_for_s=measured.sent_for_s,
        cpu_s=0.1,
        interrupted=False,
        event_loop="virtual",
        model_versions=["0123456789abcdef"],
        first_details={},
    )
    return summarise(plan, outcome, measured.samples)


def load_report(target: str = "127.0.0.1:50051") -> ServerReport:
    """Return a report with every kind of run, and ceilings."""
    runs = [
        run_of(RunPlan(concurrency=4, window=WINDOW, traffic=TRAFFIC)),
        *(
            run_of(RunPlan(rate_per_s=rate, window=WINDOW, traffic=TRAFFIC), stall_s)
            for rate, stall_s in ((100.0, 0.0), (300.0, 0.0), (500.0, 0.3))
        ),
    ]
    return ServerReport(
        scenario="server",
        environment=describe_environment(),
        target=target,
        bundle_id="0123456789abcdef",
        label="stable",
        k=10,
        histories=100,
        runs=runs,
        interrupted=False,
        ceilings=Ceilings(
            echo_per_s={"asyncio": 2000.0, "uvloop": 2500.0, "threads": 2200.0},
            echo_cpu_us={"asyncio": 200.0, "uvloop": 180.0, "threads": None},
            runner_per_s={"1": 900.0, "8": 3000.0, "64": 5000.0},
            copy_gb_per_s=10.0,
            table_bytes=2_000_000,
            threads=1,
        ),
        findings={"rate_per_s": 480.0},
    )
