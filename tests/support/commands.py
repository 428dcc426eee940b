"""Runs the real commands as processes, as a user would."""

import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
PATIENCE_S = 3600.0


def run(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command of the environment; its outputs are captured."""
    line = [str(part) for part in command]
    return subprocess.run(
        [str(BIN / line[0]), *line[1:]],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def succeed(*command: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run a command that must end well."""
    done = run(*command)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def refuse(*command: str | Path) -> str:
    """Run a command that must fail with one clear message; return the message."""
    done = run(*command)
    assert done.returncode != 0, f"{command} did not fail\n{done.stdout}"
    assert "Traceback" not in done.stderr, done.stderr
    messages = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, done.stderr
    return messages[0]
