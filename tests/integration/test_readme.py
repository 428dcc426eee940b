"""The commands of README.md, run as a newcomer would.

* Every block fenced as ```bash is run, in order, by one bash that stops at the first failure. Its
  folder is empty but for links to `training` (recipes), and the commands are on the PATH. What is
  to be read and not run (git clone, make, a GPU) stands in a block fenced otherwise, e.g. ```sh.
* Blocks fenced as ```python follow, while what was started with "&" still runs. It ends with the
  shell.
* 50051 stands for a free port throughout.
* SMALLER shrinks the work to what a test may take, PATIENT makes up for a busy machine; each of
  their texts must occur in README.md.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.readme import blocks
from support.tree import ROOT

PORT = "50051"
LIMIT_S = 900  # against hanging; the commands take a minute or two
SMALLER = {
    "--items 400": "--items 60",
    "--users 1500": "--users 200",
    # VGG-16 on all pixels would take most of all the commands' time; tests/real runs it.
    "--random-weights\n": "--random-weights --image-encoder squeezenet1_1 --image-size 64\n",
    "fit training/configs/toy.toml": "fit training/configs/toy.toml --epochs 2",
    "mmsr-export demo/run": "mmsr-export demo/run --accept-drop",  # two epochs are few
}
PATIENT = {
    "deadline_ms=50": "deadline_ms=60_000",
    "--duration-s 4": "--duration-s 4 || [ $? = 3 ]",  # measured, but the generator was late
}
HEADER = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n"


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def script_of(text: str) -> str:
    """Return README's commands as one script, shrunk."""
    python = [f"python - <<'END'\n{code}END" for code in blocks(text, "python")]
    assert python
    commands = "\n".join([*blocks(text, "bash"), *python])
    for said, done in (SMALLER | PATIENT).items():
        assert said in commands, f"README.md no longer says {said!r}; this test must follow"
        commands = commands.replace(said, done)
    return HEADER + commands.replace(PORT, str(free_port()))


@pytest.mark.slow
def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    script = script_of((ROOT / "README.md").read_text())
    (tmp_path / "training").symlink_to(ROOT / "training")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "TORCH_HOME": str(tmp_path)}
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:  # its group is its own: whatever it started ends with it
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, out[-4000:]
