"""What a reload costs the requests of the moment: `python engine/benchmarks/reload.py REPO`.

Two bundles that differ in the popularity of their items take turns as `stable` of a server in a
process of its own, while another process sends requests at Poisson times at half of what the
server can do. Reload windows (from the move of the label until the old bundle is freed) and steady
windows of the same length take turns; latencies, from the intended send time, are pooled over all
windows of a kind. Then the server reloads on under the same load, one after the other. Its memory
is read after each of all reloads.
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


@dataclass(frozen=True, kw_only=True)
class Reloads:
    """What was done under load."""

    spans: dict[str, list[Span]]  # by kind
    resident_mib: list[dict[str, float]]  # after each reload


def under_load(
    server: Server, repository: Repository, ids: list[str], paired: int, more: int
) -> Reloads:
    """Let reloads and steady windows of the same length take turns; then only reload."""
    done = Reloads(spans={"reload": [], "steady": []}, resident_mib=[])
    for number in range(1, paired + more + 1):
        span = reload(server, repository, ids[number % 2])
        done.resident_mib.append(server.resident_mib())
        typer.echo(f"reload {number} of {paired + more}: {span[1] - span[0]:.1f} s", err=True)
        if number <= paired:
            time.sleep(SETTLE_S)
            began = time.monotonic()
            time.sleep(span[1] - span[0])
            done.spans["reload"].append(span)
            done.spans["steady"].append((began, time.monotonic()))
    return done


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
    more: Annotated[int, typer.Option(help="reloads after that, one after the other", min=0)] = 30,
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
    named = f"reload.py {repository.name} --reloads {reloads} --more {more}"  # no machine's places
    environment = {**describe_environment().to_json(), "command": named}
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
    """Find the capacity, then reload under load."""
    requests, rate, reloads, more = what
    with send_in_process(target, requests, callers=CALLERS) as sending:
        time.sleep(CAPACITY_S)
        closed = sending.stop()
    capacity = len(closed.done_s_R) / float(np.ptp(closed.done_s_R))
    rate = rate or capacity / 2
    for bundle_id in (ids[1], ids[0]):  # both have been in use once
        reload(server, repository, bundle_id)
    with send_in_process(target, requests, rate_per_s=rate) as sending:
        time.sleep(SETTLE_S)
        done = under_load(server, repository, ids, reloads, more)
        sent = sending.stop()
    kinds = {kind: summarise(sent, windows) for kind, windows in done.spans.items()}
    return {
        "capacity_per_s": round(capacity),
        "rate_per_s": round(rate),
        "kinds": {kind: asdict(found) for kind, found in kinds.items()},
        "p99_ratio": round(kinds["reload"].p99_ms / kinds["steady"].p99_ms, 3),
        "p99_ratio_by_pair": spread(kinds["reload"], kinds["steady"]),
        "requests_in_all": len(sent.failed_R),
        "failed_in_all": int(sent.failed_R.sum()),
        "sender_lag_p99_ms": quantile((sent.sent_s_R - sent.intended_s_R) * 1e3, 0.99),
        "resident_mib": done.resident_mib,
        "resident_ratio": {
            name: growth([found[name] for found in done.resident_mib])
            for name in ("VmRSS", "RssAnon")
        },
    }


def spread(reloads: Kind, steady: Kind) -> dict[str, float]:
    """Return the quartiles of the ratios of each reload window to the steady one after it."""
    ratios = np.divide(reloads.p99_by_window_ms, steady.p99_by_window_ms)
    names = ("p25", "p50", "p75")
    return dict(zip(names, np.quantile(ratios, (0.25, 0.5, 0.75)).round(3).tolist(), strict=True))


def growth(values: list[float]) -> float:
    """Return the median of the last five in relation to that of the first five."""
    return round(float(np.median(values[-5:]) / np.median(values[:5])), 3)


if __name__ == "__main__":
    run_app(app)
