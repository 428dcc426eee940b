"""Peak memory and seconds of `mmsr-train prepare` on a large shop.

    python training/benchmarks/prepare_memory.py                 # 10 M interactions, 1 M items
    python training/benchmarks/prepare_memory.py --form csv --k-core 3

Generates a shop without pictures, then prepares its files again as a table, each as a process of
its own; the peak is the kernel's count of resident memory (wait4). Exits with 1 above the limit.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.parquet as pq
import typer

LIMIT_GIB = 4.0
COMMAND = "from mmsr.training.prepare.cli import app; app()"
KIB_PER_GIB = 1 << 20
Form = Literal["parquet", "csv", "jsonl"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one process took."""

    name: str
    seconds: float
    cpu_s: float
    peak_gib: float


def measure(name: str, arguments: list[str]) -> Run:
    """Run one `prepare` command; exit with its code if it fails."""
    started_s = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *arguments], stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise typer.Exit(process.returncode)
    seconds = time.monotonic() - started_s
    return Run(
        name=name,
        seconds=seconds,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_gib=usage.ru_maxrss / KIB_PER_GIB,
    )


def rewrite(source: Path, to: Path, form: Form) -> None:
    """Copy a shop's Parquet files, as CSV or JSON lines if asked."""
    to.mkdir()
    for stem in ("items", "interactions"):
        if form == "parquet":
            shutil.copy(source / f"{stem}.parquet", to)
            continue
        with (to / f"{stem}.{form}").open("w", encoding="utf-8") as file:
            parquet = pq.ParquetFile(source / f"{stem}.parquet")
            if form == "csv":
                file.write(",".join(parquet.schema_arrow.names) + "\n")
            for batch in parquet.iter_batches():
                file.writelines(_line(row, form) for row in batch.to_pylist())


def _line(row: dict[str, Any], form: Form) -> str:
    if form == "jsonl":
        return json.dumps(row) + "\n"
    texts = ["|".join(v) if isinstance(v, list) else str(v or "") for v in row.values()]
    return ",".join('"' + text.replace('"', '""') + '"' for text in texts) + "\n"


def main(
    items: Annotated[int, typer.Option()] = 1_000_000,
    users: Annotated[int, typer.Option()] = 1_000_000,
    interactions: Annotated[int, typer.Option()] = 10_000_000,
    form: Annotated[Form, typer.Option(help="of the table's files")] = "parquet",
    k_core: Annotated[int | None, typer.Option()] = None,
    folder: Annotated[Path | None, typer.Option(help="where there is space")] = None,
) -> None:
    """Generate, prepare, print."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        sizes = f"--items {items} --users {users} --interactions {interactions} --no-images"
        runs = [measure("prepare toy", ["toy", str(work / "toy"), *sizes.split()])]
        rewrite(work / "toy" / "source", work / "shop", form)
        shutil.rmtree(work / "toy")
        core = [] if k_core is None else ["--k-core", str(k_core)]
        table = ["table", str(work / "shop"), str(work / "table"), *core]
        runs.append(measure(f"prepare table ({form})", table))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(f"{items:,} items, {users:,} users, {interactions:,} interactions; {machine}")
    for run in runs:
        print(
            f"{run.name:<26} {run.seconds:7.1f} s  {run.cpu_s:7.1f} CPU s  "
            f"peak {run.peak_gib:.2f} GiB"
        )
    raise typer.Exit(int(max(run.peak_gib for run in runs) > LIMIT_GIB))


if __name__ == "__main__":
    typer.run(main)
