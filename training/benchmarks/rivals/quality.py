"""RecTools' SASRec with the settings of its published benchmark, ranked by MMSR's own metrics.

    python training/benchmarks/rivals/quality.py --data DATA --out FOLDER

Leave-one-out of the prepared data, all items ranked, history masked and not. Takes hours on a CPU:
FOLDER/log.csv grows by a line an epoch; the same command goes on with a run that was stopped. The
best epoch so far is evaluated at the end, and by --evaluate-only at any time: FOLDER/ranks.npz,
FOLDER/metrics.json.
"""

import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.rivals.environments import DEFAULT_VENVS, SOURCES, RivalError, python_of
from benchmarks.rivals.published import MAX_EPOCHS, Published
from mmsr.bundle.files import read_json, write_json
from mmsr.bundle.terminal import run as run_app
from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.split import leave_one_out

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def begin(dataset: Dataset, settings: Published, out: Path) -> None:
    """Write what the worker reads; `RivalError` if the folder holds another run."""
    out.mkdir(parents=True, exist_ok=True)
    begun = {"data_hash": dataset.info.content_hash, "settings": asdict(settings)}
    path = out / "run.json"
    if path.exists() and read_json(path, "a run's settings") != begun:
        raise RivalError(f"{out} was begun with other settings or data; name a new --out")
    split = leave_one_out(dataset)
    users = min(settings.users or split.users, split.users)
    evaluated_E = split.evaluated("test")
    np.savez(
        out / "sequences.npz",
        items=split.items_T[: split.offsets[users]],
        offsets=split.offsets[: users + 1],
        test_end=split.test.history_end_U[:users],
        evaluated=evaluated_E[evaluated_E < users],
        catalogue=dataset.info.items,
    )
    write_json(path, begun)


def train(out: Path, python: Path, job: dict[str, object], threads: int) -> None:
    """Run the worker until it is done; its messages go to FOLDER/worker.log."""
    write_json(out / "job.json", job)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    command = [
        str(python),
        "-m",
        "benchmarks.rivals.rectools_quality_worker",
        str(out / "job.json"),
    ]
    with (out / "worker.log").open("a") as log:
        done = subprocess.run(
            command,
            env={**os.environ, **counts, "PYTHONPATH": str(SOURCES)},
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        raise RivalError(
            f"the training ended with code {done.returncode}; see {out / 'worker.log'}"
        )


@app.command()
def main(  # noqa: PLR0913 (a command has as many parameters as flags)
    data: Annotated[Path, typer.Option(help="prepared data")],
    out: Annotated[Path, typer.Option(help="folder of the run", metavar="FOLDER")],
    epochs: Annotated[int, typer.Option(help="at most", min=1)] = MAX_EPOCHS,
    users: Annotated[int | None, typer.Option(help="only the first ones, to try it out")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="of Lightning's steps; bf16-mixed takes half the time here")
    ] = "32-true",
    venvs: Annotated[Path, typer.Option(help="folder of the rivals")] = DEFAULT_VENVS,
    evaluate_only: Annotated[bool, typer.Option("--evaluate-only", help="do not train")] = False,
) -> None:
    """Train, or go on training; then rank the test items by the best epoch."""
    from benchmarks.rivals.states import evaluate_states

    dataset = open_dataset(data)
    if not evaluate_only:
        settings = Published(users=users)
        begin(dataset, settings, out)
        job = {
            "folder": str(out.resolve()),
            "settings": asdict(settings),
            "epochs": epochs,
            "threads": threads,
            "device": device,
            "precision": precision,
        }
        train(out, python_of("rectools", venvs), job, threads)
    print(json.dumps(evaluate_states(dataset, out), indent=1))


if __name__ == "__main__":
    run_app(app)
