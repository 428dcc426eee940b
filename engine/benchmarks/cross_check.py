"""Two load generators on one server: perf_analyzer over OIP, mmsr-bench over mmsr.v1.

    PYTHONPATH=tests:engine python -m benchmarks.cross_check --json engine/results/NAME.json

Closed loop at one concurrency, the same histories, k and server; a made-up bundle of a million
items unless --repository names one. Rounds of A B B A; a round's ratio is perf_analyzer's
answers/s to mmsr-bench's. The server's CPU time per answer stands beside it: it does not hang on
what else the machine does. Exit code 1: the median ratio is off by more than 10 %.
"""

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from benchmarks.perf_analyzer import VERSION, provide, write_requests
from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import write_json
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.histories import load_histories
from mmsr.engine.bench.machine import describe_environment
from mmsr.oip import inference_pb2, inference_pb2_grpc

# perf_analyzer reports the mean of its last three windows, and counts in each only what began and
# ended in it: it misses concurrency / (rate * window) of the answers, so few calls at once.
WINDOWS = 3
MILLION = 1_000_000
WARM_UP_S = 2.0
PATIENCE_S = 300.0
K = 10
WIDTH = 64  # of the made-up bundle's vectors
LIMIT = 0.1  # largest deviation of the median ratio from 1
TOOL_FOLDER = Path.home() / ".cache" / "mmsr" / "perf-analyzer"
BENCH = "from mmsr.engine.bench.cli import main; main()"
OURS, THEIRS = "mmsr-bench", "perf_analyzer"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One generator's measurement."""

    tool: str
    answered_per_s: float
    server_cpu_ms: float  # per answer that the server gave, warm-up included


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What both generators send, and for how long."""

    target: str
    server_pid: int
    repository: Path
    concurrency: int
    turn_s: float
    work: Path
    command: list[str]  # that starts perf_analyzer


def by_mmsr_bench(setting: Setting) -> tuple[float, int]:
    """Return the answers per second, and how many there were in all."""
    report = setting.work / "ours.json"
    flags = {
        "--repository": setting.repository,
        "--concurrency": setting.concurrency,
        "--k": K,
        "--duration-s": setting.turn_s,
        "--warm-up-s": WARM_UP_S,
        "--json": report,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    command = [sys.executable, "-c", BENCH, "server", setting.target, *words]
    subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S)
    (run,) = json.loads(report.read_text())["runs"]
    return run["answered_per_s"], run["answered"] + run["warm_up_requests"]


def by_perf_analyzer(setting: Setting) -> tuple[float, int]:
    """Return the same of perf_analyzer, in its usual closed loop with synchronous calls."""
    table, before = setting.work / "theirs.csv", answers_over_oip(setting.target)
    flags = {
        "-m": "recommender",
        "-u": setting.target,
        "-i": "grpc",
        "--input-data": setting.work / "requests.json",
        "--concurrency-range": setting.concurrency,
        "--measurement-interval": round(1e3 * setting.turn_s / WINDOWS),
        "--max-trials": WINDOWS,
        "--stability-percentage": 999,  # all windows count, none is tried again
        "-f": table,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    done = subprocess.run(
        [*setting.command, *words], capture_output=True, text=True, timeout=PATIENCE_S
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:]
        raise MmsrError(f"perf_analyzer ended with {done.returncode}: {''.join(said)}")
    with table.open() as lines:
        (row,) = csv.DictReader(lines)
    return float(row["Inferences/Second"]), answers_over_oip(setting.target) - before


def answers_over_oip(target: str) -> int:
    """Return how many requests the server has answered over the Open Inference Protocol."""
    with grpc.insecure_channel(target) as channel:
        stub = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = inference_pb2.ModelStatisticsRequest(name="recommender")
        (found,) = stub.ModelStatistics(request, timeout=PATIENCE_S).model_stats
    return found.inference_stats.success.count


TOOLS = {OURS: by_mmsr_bench, THEIRS: by_perf_analyzer}


def take_turn(tool: str, setting: Setting) -> Turn:
    """Measure once."""
    before_s = cpu_s(setting.server_pid)
    per_s, answers = TOOLS[tool](setting)
    spent_s = cpu_s(setting.server_pid) - before_s
    return Turn(tool=tool, answered_per_s=per_s, server_cpu_ms=1e3 * spent_s / max(1, answers))


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has taken, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime and stime: fields 14 and 15 of the line
    return ticks / 100


@contextmanager
def served(repository: Path, work: Path) -> Iterator[tuple[str, int]]:
    """Keep a server with its defaults; give its address and process id."""
    port_file = work / "port"
    flags = ["--repository", str(repository), "--port", "0", "--port-file", str(port_file)]
    command = [sys.executable, "-m", "mmsr.engine.cli", *flags]
    with (work / "server.log").open("w") as log, subprocess.Popen(command, stderr=log) as server:
        try:
            ends = time.monotonic() + PATIENCE_S
            while not port_file.is_file():
                if server.poll() is not None or time.monotonic() > ends:
                    raise MmsrError((work / "server.log").read_text())
                time.sleep(0.2)
            yield f"127.0.0.1:{port_file.read_text().strip()}", server.pid
        finally:
            server.terminate()


def made_up(root: Path, items: int) -> Path:
    """Publish a bundle of random rows; its model is the mean of the history."""
    from support.tiny_bundle import Sizes, publish

    publish(root, Sizes(items=items, width=WIDTH, extra_width=0, max_length=50, probes=200))
    return root


def summary(rounds: list[list[Turn]]) -> dict[str, Any]:
    """Return the ratio of each round, their median, and the medians of each tool."""

    def mean(turns: list[Turn], tool: str) -> float:
        return statistics.mean(turn.answered_per_s for turn in turns if turn.tool == tool)

    ratios = [mean(turns, THEIRS) / mean(turns, OURS) for turns in rounds]
    every = [turn for turns in rounds for turn in turns]
    tools = {tool: [turn for turn in every if turn.tool == tool] for tool in TOOLS}
    return {
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "tools": {
            tool: {
                "answered_per_s": statistics.median(turn.answered_per_s for turn in turns),
                "server_cpu_ms": statistics.median(turn.server_cpu_ms for turn in turns),
            }
            for tool, turns in tools.items()
        },
    }


@app.command()
def main(
    repository: Annotated[Path | None, typer.Option(help="Default: a made-up bundle.")] = None,
    items: Annotated[int, typer.Option(help="Of the made-up bundle.")] = MILLION,
    concurrency: Annotated[int, typer.Option(help="Calls at once.")] = 4,
    rounds: Annotated[int, typer.Option(help="Of A B B A.")] = 5,
    turn_s: Annotated[float, typer.Option(help="Seconds of one measurement.")] = 15.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report.")] = None,
) -> None:
    """Compare the two generators on one server."""
    environment = describe_environment()
    command = provide(TOOL_FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = repository or made_up(work / "repository", items)
        bundle = Repository(root).resolve("stable")
        sizes = load_manifest(bundle).tables
        write_requests(work / "requests.json", load_histories(bundle), K)
        with served(root, work) as (target, pid):
            setting = Setting(
                target=target,
                server_pid=pid,
                repository=root,
                concurrency=concurrency,
                turn_s=turn_s,
                work=work,
                command=command,
            )
            found = take_rounds(setting, rounds)
    report = {
        "environment": environment.to_json(),
        "perf_analyzer": VERSION,
        "bundle": {"id": bundle.name, **asdict(sizes)},
        "concurrency": concurrency,
        "k": K,
        "turn_s": turn_s,
        **summary(found),
        "rounds": [[asdict(turn) for turn in turns] for turns in found],
    }
    tell(report)
    if json_file is not None:
        write_json(json_file, report)
    if abs(report["ratio"] - 1) > LIMIT:
        raise typer.Exit(1)


def take_rounds(setting: Setting, rounds: int) -> list[list[Turn]]:
    """Measure in turns, and say each round's ratio."""
    found = []
    for number in range(rounds):
        found.append([take_turn(tool, setting) for tool in (OURS, THEIRS, THEIRS, OURS)])
        ratio = summary(found[-1:])["ratio"]
        typer.echo(f"round {number + 1}: {THEIRS} / {OURS} {ratio:.3f}")
    return found


def tell(report: Mapping[str, Any]) -> None:
    """Print the result."""
    for tool, numbers in report["tools"].items():
        rate, cpu_ms = numbers["answered_per_s"], numbers["server_cpu_ms"]
        typer.echo(f"{tool}: {rate:.1f} answers/s, {cpu_ms:.2f} ms of the server's CPU an answer")
    allowed = f"{1 - LIMIT:.2f} to {1 + LIMIT:.2f}"
    typer.echo(f"median ratio {report['ratio']:.3f} (allowed {allowed})")


if __name__ == "__main__":
    run_app(app)
