"""Gives each scenario its tally, and prints all of them at the end."""

import os
import time
from collections.abc import Iterator
from inspect import getdoc
from pathlib import Path
from typing import Any, cast

import pytest
from support.fork_server import ForkServer, fork_server
from support.tally import LONG, Tally, report, table, totals

PROPERTY = "fault"
FAILED: set[str] = set()
ROWS: list[dict[str, Any]] = []  # of the scenarios that have ended, whichever worker ran them


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """Start what forks an `mmsr-train` that has been imported already."""
    with fork_server(tmp_path_factory.mktemp("outputs")) as server:
        yield server


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Return the scenario's counts; the first line of its docstring says what the fault is."""
    fault = (getdoc(request.function) or request.node.name).splitlines()[0].rstrip(".")
    tally, began = Tally(fault=fault), time.monotonic()
    yield tally
    row = tally.row(request.node.name.removeprefix("test_"), time.monotonic() - began)
    request.node.user_properties.append((PROPERTY, row))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        FAILED.add(report.nodeid)
    if report.when == "teardown":
        for name, value in report.user_properties:
            if name == PROPERTY:
                row = cast("dict[str, Any]", value)
                if report.nodeid in FAILED:
                    row["fault"] = f"**FAILED** {row['fault']}"
                ROWS.append(row)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not ROWS:
        return
    rows = sorted(ROWS, key=lambda row: row["scenario"])
    terminalreporter.write_sep("=", "faults")
    for line in table(rows):
        terminalreporter.write_line(line)
    terminalreporter.write_line(totals(rows))
    path = os.environ.get("MMSR_FAULTS_REPORT")
    words = " ".join(terminalreporter.config.invocation_params.args)
    if path:
        Path(path).write_text(report(rows, f"MMSR_PROOF={int(LONG)} python -m pytest {words}"))
