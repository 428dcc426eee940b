"""Runs a program of tests/support that tells as JSON lines how far it came, and may not live."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from support.tree import ROOT

NOTHING_MORE: Mapping[str, str] = {}


def told_until_it_ends(
    program: ModuleType,
    arguments: Sequence[str],
    longest_s: float,
    environment: Mapping[str, str] = NOTHING_MORE,
) -> tuple[list[dict[str, Any]], int, str]:
    """Return what the process said, its exit code, and its last words."""
    assert program.__file__ is not None
    places = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    path = {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    process = subprocess.run(
        [sys.executable, program.__file__, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **path, **environment},
        timeout=longest_s,
        check=False,
    )
    said = [json.loads(line) for line in process.stdout.splitlines() if line.endswith("}")]
    return said, process.returncode, process.stderr.strip().rpartition("\n")[2]
