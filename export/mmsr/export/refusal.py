"""What both gates raise: why nothing was published, and what had been measured until then."""

from typing import TYPE_CHECKING, Any

from mmsr.bundle.errors import MmsrError

if TYPE_CHECKING:
    from mmsr.export.gate import GateReport
    from mmsr.export.quality import QualityReport

PUBLISHED_NOTHING = "nothing was published"


class RefusedError(MmsrError):
    """A gate is closed. The reports are those that were made until then, its own the last."""

    parity: "GateReport | None" = None
    quality: "QualityReport | None" = None


def failure_json(error: MmsrError) -> dict[str, Any]:
    """Return what `--json` prints of an export that failed, as plain values."""
    told: dict[str, Any] = {"error": str(error), "exit_code": error.exit_code}
    if isinstance(error, RefusedError):
        reports = {"parity": error.parity, "quality": error.quality}
        told |= {name: report.to_json() for name, report in reports.items() if report is not None}
    return told
