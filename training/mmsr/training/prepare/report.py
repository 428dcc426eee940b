"""`report.json`: what came in, what was left out and why, what is there now."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsr.bundle.files import write_json
from mmsr.training.prepare.ledger import TableLedger

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class FileReport:
    """Rows of one source file: rows = kept + all rejected."""

    file: str
    rows: int
    kept: int
    rejected: dict[str, int]
    notes: dict[str, int]  # kept, but part of the row could not be used
    ignored_columns: list[str]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What the prepared data hold, and what is remarkable about them."""

    items: int
    users: int
    interactions: int
    mean_length: float  # interactions a user
    categories: int
    items_with_text: int
    items_with_image: int
    items_with_categories: int
    items_never_bought: int
    users_below_3_interactions: int  # they train only
    users_without_kept_interactions: int  # named in the file, not among the users


@dataclass(frozen=True, kw_only=True)
class Report:
    """`report.json`."""

    items: FileReport
    interactions: FileReport
    prepared: Prepared
    settings: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write `folder/report.json`."""
        write_json(folder / REPORT, asdict(self))


def file_report(ledger: TableLedger, kept: int) -> FileReport:
    """Return the counts of one file; `kept` is counted in the output, not in the ledger."""
    if kept != ledger.kept:
        raise AssertionError(f"{ledger.reasons()}, but {kept} kept: a row was lost or doubled")
    return FileReport(
        file=ledger.file,
        rows=ledger.rows,
        kept=kept,
        rejected=_by_count(ledger.rejected),
        notes=_by_count(ledger.notes),
        ignored_columns=ledger.ignored_columns,
    )


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
