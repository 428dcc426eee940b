"""What a reload costs the requests of the moment: `python engine/benchmarks/reload.py REPO`.

Two bundles that differ in the popularity of their items take turns as `stable` of a server in a
process of its own, while another process sends requests at Poisson times at half of what the
server can do. Reload windows (from the move of the label until the old bundle is freed) and steady
windows of the same length take turns; latencies, from the intended send time, are pooled over all
windows of a kind. Then the same server goes on reloading without load, for its memory.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from benchmarks.send import Sent, send_in_process
from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import MANIFEST, describe_files, load_manifest
from mmsr.bundle.repository import Repository
from mmsr.bundle.terminal import run as run_app
from mmsr.engine.bench.histories import encode_requests, load_histories
from mmsr.engine.bench.machine import describe_environment

# R requests

PATIENCE_S = 120.0
SETTLE_S = 0.5  # after a reload, before its steady window begins
CAPACITY_S = 4.0  # of the closed loop that finds out what the server can do
CALLERS = 32  # of it

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Span = tuple[float, float]  # seconds of the monotonic clock


@dataclass(frozen=True, kw_only=True)
class Kind:
    """All windows of one kind together; latencies in milliseconds."""

    windows: int
    seconds: float
    requests: int
    failed: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    p99_by_window_ms: list[float]


class Server:
    """`mmsr-serve` as a process, and what it logs."""

    def __init__(self, root: Path, flags: list[str]) -> None:
        command = [sys.executable, "-m", "mmsr.engine.cli", "--repository", str(root)]
        self.process = subprocess.Popen(
            [*command, "--port", "0", *flags], stderr=subprocess.PIPE, text=True
        )
        self._lines: list[tuple[float, str]] = []
        self._news = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self._lines.append((time.monotonic(), line.rstrip()))
                self._news.notify_all()

    @property
    def mark(self) -> int:
        """The place in the log where the next line will be."""
        return len(self._lines)

    def wait_for(self, pattern: str, since: int = 0) -> tuple[float, re.Match[str]]:
        """Return when a line came that matches, and the match."""
        ends = time.monotonic() + PATIENCE_S
        with self._news:
            while True:
                for moment, line in self._lines[since:]:
                    if match := re.search(pattern, line):
                        return moment, match
                if not self._news.wait(ends - time.monotonic()):
                    said = "\n".join(line for _, line in self._lines[since:])
                    raise SystemExit(f"error: no {pattern!r} in the server's log:\n{said}")

    def resident_mib(self) -> dict[str, float]:
        """Return the resident memory, and how much of it is no file."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = dict(re.findall(r"^(VmRSS|RssAnon):\s+(\d+) kB", status, re.MULTILINE))
        return {name: round(int(kib) / 1024, 1) for name, kib in found.items()}

    def cpu_s(self) -> float:
        """Return the CPU time that the process has used, its children's too."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / 100


@contextmanager
def serving(root: Path, flags: list[str]) -> Iterator[tuple[Server, str]]:
    """Keep a server running; give its target too."""
    server = Server(root, flags)
    try:
        _, match = server.wait_for(r"serving [0-9a-f]{16} on (\S+), ")
        yield server, match[1]
    finally:
        server.process.terminate()
        server.process.wait(PATIENCE_S)


def two_bundles(source: Path, root: Path) -> tuple[Repository, list[str]]:
    """Copy the bundle at `source` into a new repository, twice, with other popularities."""
    repository = Repository(root)
    ids = []
    for more in (0, 1):
        with repository.stage() as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            catalogue = load_catalogue(folder)
            replace(catalogue, popularity=catalogue.popularity + more).save(folder)
            manifest = load_manifest(folder)
            (folder / MANIFEST).unlink()
            replace(manifest, files=describe_files(folder)).save(folder)
            ids.append(repository.publish(folder))
    repository.promote(ids[0], "stable")
    return repository, ids


def reload(server: Server, repository: Repository, bundle_id: str) -> Span:
    """Move the label; return the time from then until the old bundle was freed."""
    mark, began = server.mark, time.monotonic()
    repository.promote(bundle_id, "stable")
    ended, _ = server.wait_for(r"INFO freed ", mark)
    return began, ended


def under_load(
    server: Server, repository: Repository, ids: list[str], reloads: int
) -> dict[str, list[Span]]:
    """Let reloads and steady windows of the same length take turns."""
    spans: dict[str, list[Span]] = {"reload": [], "steady": []}
    for number in range(1, reloads + 1):
        span = reload(server, repository, ids[number % 2])
        time.sleep(SETTLE_S)
        began = time.monotonic()
        time.sleep(span[1] - span[0])
        spans["reload"].append(span)
        spans["steady"].append((began, time.monotonic()))
        typer.echo(f"reload {number} of {reloads}: {span[1] - span[0]:.1f} s", err=True)
    return spans


def summarise(sent: Sent, spans: list[Span]) -> Kind:
    """Pool the requests that were meant for one of the windows."""
    latency_ms_R = np.where(sent.failed_R, np.inf, (sent.done_s_R - sent.intended_s_R) * 1e3)
    inside = [(sent.intended_s_R >= a) & (sent.intended_s_R < b) for a, b in spans]
    pooled_R = latency_ms_R[np.any(inside, axis=0)]
    return Kind(
        windows=len(spans),
        seconds=round(sum(b - a for a, b in spans), 1),
        requests=len(pooled_R),
        failed=int(np.isinf(pooled_R).sum()),
        p50_ms=quantile(pooled_R, 0.5),
        p90_ms=quantile(pooled_R, 0.9),
        p99_ms=quantile(pooled_R, 0.99),
        max_ms=quantile(pooled_R, 1.0),
        p99_by_window_ms=[quantile(latency_ms_R[some], 0.99) for some in inside],
    )


def quantile(values_R: npt.NDArray[np.float64], p: float) -> float:
    """Return the smallest value that a share `p` does not exceed, to the microsecond."""
    return round(float(np.quantile(values_R, p, method="inverted_cdf")), 3)


@app.command()
def main(
    repository: Annotated[Path, typer.Argument(help="whose bundle `stable` is served")],
    reloads: Annotated[int, typer.Option(help="under load", min=1)] = 20,
    more: Annotated[int, typer.Option(help="reloads after that without load", min=0)] = 30,
    rate: Annotated[float | None, typer.Option(help="requests a second; default: half")] = None,
    flag: Annotated[list[str] | None, typer.Option(help="for mmsr-serve; repeat")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the report")] = None,
) -> None:
    """Measure, print, and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        source = Repository(repository).resolve("stable")
        own, ids = two_bundles(source, Path(folder) / "repository")
        requests = encode_requests(load_histories(source), 10, 0)
        with serving(own.root, list(flag or [])) as (server, target):
            report = measure(server, target, own, ids, (requests, rate, reloads, more))
    environment = describe_environment().to_json()
    tables = load_manifest(source).tables
    found = {"environment": environment, "bundle": asdict(tables), "flags": flag or [], **report}
    text = json.dumps(found, indent=2)
    typer.echo(text)
    if json_path is not None:
        json_path.write_text(text + "\n")


def measure(
    server: Server,
    target: str,
    repository: Repository,
    ids: list[str],
    what: tuple[list[bytes], float | None, int, int],
) -> dict[str, Any]:
    """Find the capacity, reload under load, then without."""
    requests, rate, reloads, more = what
    with send_in_process(target, requests, callers=CALLERS) as sending:
        time.sleep(CAPACITY_S)
        closed = sending.stop()
    capacity = len(closed.done_s_R) / float(np.ptp(closed.done_s_R))
    rate = rate or capacity / 2
    memory = {"start": server.resident_mib()}
    for bundle_id in (ids[1], ids[0]):  # both have been in use once
        reload(server, repository, bundle_id)
    memory["after 2 reloads"] = server.resident_mib()
    with send_in_process(target, requests, rate_per_s=rate) as sending:
        time.sleep(SETTLE_S)
        spans = under_load(server, repository, ids, reloads)
        sent = sending.stop()
    memory[f"after {2 + reloads} reloads"] = server.resident_mib()
    lasted_s = []
    for number in range(reloads + 1, reloads + more + 1):
        began, ended = reload(server, repository, ids[number % 2])
        lasted_s.append(round(ended - began, 2))
    memory[f"after {2 + reloads + more} reloads"] = server.resident_mib()
    kinds = {kind: summarise(sent, windows) for kind, windows in spans.items()}
    first, last = memory["after 2 reloads"], memory[f"after {2 + reloads + more} reloads"]
    return {
        "capacity_per_s": round(capacity),
        "rate_per_s": round(rate),
        "kinds": {kind: asdict(found) for kind, found in kinds.items()},
        "p99_ratio": round(kinds["reload"].p99_ms / kinds["steady"].p99_ms, 3),
        "failed_in_all": int(sent.failed_R.sum()),
        "sender_lag_p99_ms": quantile((sent.sent_s_R - sent.intended_s_R) * 1e3, 0.99),
        "resident_mib": memory,
        "rss_ratio": round(last["VmRSS"] / first["VmRSS"], 3),
        "reload_s_without_load": float(np.median(lasted_s)) if lasted_s else None,
    }


if __name__ == "__main__":
    run_app(app)
