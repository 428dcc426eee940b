"""Reads what a run's folder says of itself, as plain values. Needs no torch, loads no weights."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import read_json
from mmsr.training.selection import column_of, selecting_value

Log = tuple[dict[str, float], ...]
NDCG = column_of("masked", "ndcg@10")
RECALL = column_of("masked", "recall@10")


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run on disk. What has not been made yet is None or empty."""

    name: str
    info: dict[str, Any]  # run.json
    log: Log  # one line an epoch
    evaluation: dict[str, Any] | None
    data: dict[str, Any] | None  # data.json, if the data are still where they were
    prepared: dict[str, Any] | None  # counts of their report.json


def read_run(folder: Path) -> RunFiles:
    """Read a run; `MmsrError` if the folder is none or a file of it is damaged."""
    if not (folder / "run.json").is_file():
        raise MmsrError(
            f"{folder} holds no training run (no run.json); "
            f"make one with: mmsr-train fit CONFIG.toml --data DATA --out {folder}"
        )
    info = _object(folder / "run.json", "a training run")
    data_folder = Path(info["data_folder"]) if isinstance(info.get("data_folder"), str) else None
    data = None if data_folder is None else _optional(data_folder / "data.json")
    if data is not None and data.get("content_hash") != info.get("data_hash"):
        data = None  # prepared anew since
    report = None if data is None or data_folder is None else _optional(data_folder / "report.json")
    return RunFiles(
        name=folder.resolve().name,
        info=info,
        log=read_log(folder / "log.csv"),
        evaluation=_optional(folder / "evaluation.json"),
        data=data,
        prepared=None if report is None else report.get("prepared"),
    )


def read_log(path: Path) -> Log:
    """Return the lines of a log; none if training has not finished an epoch."""
    if not path.is_file():
        return ()
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return tuple({k: float(v) for k, v in row.items() if v not in ("", None)} for row in rows)
    except (ValueError, TypeError, csv.Error) as error:
        raise MmsrError(
            f"{path} is damaged ({error}); mmsr-train fit --resume writes it anew"
        ) from None


def best_epoch(log: Log) -> float | None:
    """Return the epoch that is kept: the first with the highest validation NDCG@10."""
    values = {line["epoch"]: selecting_value(line) for line in log}
    measured = {epoch: value for epoch, value in values.items() if value is not None}
    return max(measured, key=lambda epoch: measured[epoch]) if measured else None


def column(log: Log, name: str) -> tuple[tuple[float, float], ...]:
    """Return (epoch, value) of every line that has the column."""
    return tuple((line["epoch"], line[name]) for line in log if name in line)


def _object(path: Path, what: str) -> dict[str, Any]:
    raw = read_json(path, what)
    if not isinstance(raw, dict):
        raise MmsrError(f"{path} is damaged (no JSON object); expected {what}")
    return raw


def _optional(path: Path) -> dict[str, Any] | None:
    return _object(path, "what mmsr-train wrote") if path.is_file() else None
