"""What both gates raise: why nothing was published, and what had been measured until then."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.terminal import explained

if TYPE_CHECKING:
    from mmsr.export.gate import GateReport
    from mmsr.export.quality import QualityReport
    from mmsr.export.stored import StoredReport

PUBLISHED_NOTHING = "nothing was published"


class RefusedError(MmsrError):
    """A gate is closed. The reports are those that were made until then, its own the last."""

    stored: "StoredReport | None" = None  # where the files alone refuse: no answer was measured
    parity: "GateReport | None" = None
    quality: "QualityReport | None" = None


def failure_json(error: BaseException) -> dict[str, Any] | None:
    """Return what `--json` prints of an export that failed, as plain values; None: it is a bug."""
    if (known := explained(error)) is None:
        return None
    told: dict[str, Any] = {"error": known[0], "exit_code": known[1]}
    if isinstance(error, RefusedError):
        reports = {"parity": error.parity, "quality": error.quality}
        told |= {name: report.to_json() for name, report in reports.items() if report is not None}
        if error.stored is not None:
            told["parity"] = {"stored": asdict(error.stored)}
    return told
