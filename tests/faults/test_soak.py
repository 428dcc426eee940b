"""The server under load for a while, with newer bundles and a catalogue that is written.

Short here; `make soak` is the long form, which judges timings too and writes the report.
"""

import os
import sys
from pathlib import Path

import pytest
from support.soak import SHORT, long_plan, soak
from support.soak_report import write_report
from support.soak_verdict import problems, timing_problems

MINUTES = int(os.environ.get("MMSR_SOAK_MINUTES", "0"))
REPORT = os.environ.get("MMSR_SOAK_REPORT", "")
# Of the short form: its first rounds are those in which memory settles.
BOUND = 0.10


@pytest.mark.skipif(MINUTES > 0, reason="the long form is asked for")
def test_a_minute_of_load_reloads_and_writes_fails_no_request_and_leaks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSR_SERVE_RELOAD_NICE", "0")  # as many reloads as a minute has room for
    monkeypatch.setenv("MMSR_SERVE_RELOAD_SHARE", "1")
    found = soak(SHORT, tmp_path, lambda line: None)
    assert problems(found, most_growth=BOUND) == []
    assert found.checked >= found.requests // 100 - SHORT.rounds
    assert found.reloads >= 1
    assert found.writes >= 100
    assert len(found.bundles) > 1


@pytest.mark.skipif(MINUTES == 0, reason="make soak")
def test_it_goes_on_for_long_as_it_began(tmp_path: Path) -> None:
    def tell(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    found = soak(long_plan(MINUTES), tmp_path, tell)
    if REPORT:
        write_report(Path(REPORT), found, f"make soak MINUTES={MINUTES}")
    assert problems(found) == []
    assert timing_problems(found) == []
