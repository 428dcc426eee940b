"""A shop's files, written row by row, and one call that prepares them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.prepare.progress import silent
from mmsr.training.prepare.report import Report
from mmsr.training.prepare.sources import find_sources
from mmsr.training.prepare.table import TableSettings, prepare_table

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Prepared data and what was said of them."""

    dataset: Dataset
    report: Report
    rejected: list[Row]
    notes: list[Row]

    def sequences(self) -> dict[str, list[str]]:
        """Return the item ids of every user, by user id."""
        names = self.dataset.item_table()["item_id"].to_pylist()
        bounds = self.dataset.offsets
        return {
            user: [names[row - 1] for row in self.dataset.items_T[bounds[u] : bounds[u + 1]]]
            for u, user in enumerate(self.dataset.user_ids())
        }


class Prepare(Protocol):
    """Prepares rows of items and interactions; each call writes into folders of its own."""

    def __call__(self, items: list[Any], log: list[Any], k_core: int | None = None) -> Outcome: ...


def write_lines(path: Path, rows: list[Any]) -> None:
    """Write JSON lines; a text stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def items_of(*names: str) -> list[Any]:
    """Return items that have nothing but a title."""
    return [{"item_id": name, "title": f"The {name}"} for name in names]


def log_of(*rows: tuple[Any, Any, Any]) -> list[Any]:
    """Return interactions of (user, item, timestamp)."""
    return [{"user_id": u, "item_id": i, "timestamp": t} for u, i, t in rows]


def prepare_folder(source: Path, out: Path, k_core: int | None = None) -> Outcome:
    """Prepare a folder of files into an empty folder."""
    sources = find_sources(source)
    settings = TableSettings(name="test", image_root=str(sources.image_root), k_core=k_core)
    report = prepare_table(sources, out, settings, silent)
    return Outcome(
        dataset=open_dataset(out),
        report=report,
        rejected=read_lines(out / "rejected.jsonl"),
        notes=read_lines(out / "notes.jsonl"),
    )


def read_lines(path: Path) -> list[Row]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
