"""gpu-check's refit: an engine that keeps stale weights fails the section, its numbers kept."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import sections
from benchmarks.gpu.refit import RefitGateError, measure_both, require_right
from benchmarks.gpu.setting import Findings, Setting

RIGHT = {"overlap": 1.0, "score_error": 0.001, "histories": 64}
WRONG = {"overlap": 0.31, "score_error": 2.66, "histories": 64}


@dataclass
class Engine:
    """The weights that an engine answers by."""

    seed: int


@dataclass
class FakeEngines:
    """Engines that answer rightly by the weights that they hold; a refit may be lost on them."""

    takes_weights: bool = True
    gates: list[tuple[int, int]] = field(default_factory=list)  # held and wanted, call by call

    def build(self, seed: int, *, refittable: bool) -> Engine:
        return Engine(seed)

    def refit(self, run: Engine, seed: int) -> None:
        if self.takes_weights:
            run.seed = seed

    def gate(self, run: Engine, seed: int) -> dict[str, Any]:
        self.gates.append((run.seed, seed))
        return RIGHT if run.seed == seed else WRONG

    def times(self, run: Engine) -> dict[str, Any]:
        return {"device_p50_ms_batch_1": 0.1}


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings(path=tmp_path / "refit.json")


def test_an_engine_that_took_the_weights_passes_the_gate_anew(findings: Findings) -> None:
    engines = FakeEngines()
    measure_both(engines, findings)
    assert engines.gates == [(1, 1), (1, 1)]  # after the rebuild, after the refit
    assert findings.cells[-1]["way"] == "refitted"
    assert findings.cells[-1]["gate"] == RIGHT


def test_a_refit_that_keeps_stale_weights_fails_and_its_numbers_stand_in_the_report(
    findings: Findings,
) -> None:
    with pytest.raises(
        RefitGateError, match=r"PyTorch's: refitted: overlap 0\.3100, at least 0\.9"
    ):
        measure_both(FakeEngines(takes_weights=False), findings)
    kept = json.loads(findings.path.read_text())["cells"][-1]
    assert (kept["way"], kept["gate"], kept["device_p50_ms_batch_1"]) == ("refitted", WRONG, 0.1)


@pytest.mark.parametrize(
    "gate",
    [
        RIGHT | {"overlap": 0.9949},
        RIGHT | {"score_error": 0.0201},
        RIGHT | {"score_error": math.nan},
    ],
)
def test_either_number_beyond_the_limits_of_fp16_is_wrong(gate: dict[str, Any]) -> None:
    require_right({"refitted": RIGHT | {"overlap": 0.995, "score_error": 0.02}})
    with pytest.raises(RefitGateError, match="rebuilt"):
        require_right({"rebuilt": gate, "refitted": RIGHT})


def measure_stale(setting: Setting, findings: Findings) -> None:
    measure_both(FakeEngines(takes_weights=False), findings)


def test_the_section_ends_by_it_as_by_any_failure_and_is_not_taken_for_skipped(
    findings: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = replace(sections.SECTIONS["refit"], run=measure_stale)
    monkeypatch.setattr(sections, "SECTIONS", {"refit": stale})
    # An error that leaves `run_section` ends the section's process: FAILED, and exit code 1.
    with pytest.raises(RefitGateError):
        sections.run_section("refit", Setting(work=tmp_path, device="cpu", quick=True), findings)
    assert "skipped" not in findings.values
