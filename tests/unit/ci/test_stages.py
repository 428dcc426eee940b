"""The stages of `make demo` and `make bench`: how their commands end."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.tree import ROOT

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def stages() -> ModuleType:
    """Return .ci/stages.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("stages", ROOT / ".ci" / "stages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stages"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_server_that_has_died_is_ended_without_a_second_error(stages: ModuleType) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(7)"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, nobody knows yet
    assert stages.end(process, DEADLINE_S) > 0
    assert process.returncode == 7
    assert stages.end(process, DEADLINE_S) == 0.0


def test_a_process_that_does_not_heed_is_made_to_end(stages: ModuleType) -> None:
    code = "import signal, threading; signal.signal(15, signal.SIG_IGN); print(flush=True)"
    command = [sys.executable, "-c", f"{code}; threading.Event().wait()"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    assert stages.end(process, 0.1) > 0
    assert process.returncode == -9
    process.stdout.close()


def served(stages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> Any:
    """Return the context manager `Stages.server` with a made-up mmsr-serve."""
    command = tmp_path / "mmsr-serve"
    command.write_text(f"#!{sys.executable}\nimport sys, os, threading\n{code}\n")
    command.chmod(0o755)
    monkeypatch.setattr(stages, "BIN", tmp_path)
    return stages.Stages(environment={}).server(tmp_path, tmp_path / "port")


SAY_PORT = (
    "open(sys.argv[-1] + '.new', 'w').write('50'); os.rename(sys.argv[-1] + '.new', sys.argv[-1])"
)


def test_what_really_went_wrong_is_told_when_the_server_has_died(
    stages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(stages, tmp_path, monkeypatch, f"{SAY_PORT}; sys.exit(7)")
    with pytest.raises(stages.StageError, match="the bench failed"), server:
        raise stages.StageError("the bench failed")


def test_a_server_that_ended_badly_is_told(
    stages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal; signal.signal(15, lambda *_: os._exit(7))"
    server = served(stages, tmp_path, monkeypatch, f"{code}; {SAY_PORT}; threading.Event().wait()")
    with pytest.raises(stages.StageError, match="mmsr-serve ended with exit code 7"), server:
        pass


def test_a_stage_may_end_in_another_way_that_is_good(stages: ModuleType) -> None:
    run = stages.Stages(environment={}).run
    exit_3 = (Path(sys.executable).name, "-c", "import sys; sys.exit(3)")
    run("void", *exit_3, also_good=3)
    with pytest.raises(stages.StageError, match="void ended with exit code 3"):
        run("void", *exit_3)
