"""What a report holds, and how it is written for machines. Decides nothing."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsr.bundle.files import write_json
from mmsr.engine.bench.machine import Environment
from mmsr.engine.bench.summary import RunSummary

if TYPE_CHECKING:
    from mmsr.engine.bench.ceilings import Ceilings

REPORT_FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class ServerReport:
    """All runs of one scenario of a running server."""

    scenario: str
    environment: Environment
    target: str
    bundle_id: str  # of the bundle that the histories come from
    label: str
    k: int
    histories: int
    runs: list[RunSummary]
    interrupted: bool
    ceilings: "Ceilings | None" = None
    findings: dict[str, Any] = field(default_factory=dict)  # what the scenario asked for

    @property
    def void(self) -> bool:
        """Whether a run does not count, or what the scenario found."""
        counted = self.runs[self.findings.get("first_confirming_run", 0) :]
        return any(run.void for run in counted) or bool(self.findings.get("void"))


@dataclass(frozen=True, kw_only=True)
class RunnerReport:
    """One scenario without a running server: rows of numbers and what they are of."""

    scenario: str
    environment: Environment
    bundle_id: str
    runs: list[Any]  # dataclasses, one a row
    interrupted: bool
    findings: dict[str, Any] = field(default_factory=dict)


def write_report(path: Path, report: Any) -> None:
    """Write a whole report as JSON; every scenario's has format, scenario, environment, runs."""
    fields: dict[str, Any] = asdict(report)
    ceilings = getattr(report, "ceilings", None)
    if ceilings is not None:
        for run, written in zip(report.runs, fields["runs"], strict=True):
            written["share_of_ceilings"] = ceilings.shares(run)
    write_json(path, {"format": REPORT_FORMAT, **fields})
