"""The rivals' own virtual environments, made once and kept."""

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.rivals.contestants import Engine
from mmsr.bundle.errors import MmsrError

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]  # on the workers' path: `benchmarks` lies below it
DEFAULT_VENVS = SOURCES.parent / ".venv-rivals"  # git ignores it
DONE = "requirements.sha256"


class RivalError(MmsrError):
    """A rival cannot be installed, or its training has ended too early."""


def python_of(engine: Engine, venvs: Path) -> Path:
    """Return the interpreter that runs an engine's worker; a rival's is installed if need be."""
    if engine == "mmsr":
        return Path(sys.executable)
    requirements, folder = HERE / f"requirements-{engine}.txt", venvs / engine
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    done, python = folder / DONE, folder / "bin" / "python"
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing {requirements.name} into {folder} (minutes)", file=sys.stderr)
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)])
    done.write_text(wanted)
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise RivalError(
            f"{' '.join(command)} ended with code {done.returncode}; its messages stand above"
        )
