"""The rivals' own virtual environments, made once from exact versions and kept."""

import hashlib
import subprocess
import sys
from pathlib import Path

from mmsr.bundle.errors import MmsrError

HERE = Path(__file__).parent
ENGINE = HERE.parents[1]
ROOT = ENGINE.parent
PATHS = (ENGINE, ROOT / "proto")  # what the rivals' processes import of this project
DEFAULT_VENVS = ROOT / ".venv-rivals"  # git ignores it
DONE = "requirements.sha256"


class RivalError(MmsrError):
    """A rival cannot be installed or does not answer as it should."""


def requirements_of(name: str) -> Path:
    """Return the file with the exact versions of a rival's environment."""
    return HERE / f"requirements-{name}.txt"


def pinned(name: str) -> dict[str, str]:
    """Return package -> version of a rival's environment."""
    lines = requirements_of(name).read_text(encoding="utf-8").splitlines()
    pins = [line.split("==", 1) for line in lines if "==" in line and not line.startswith("#")]
    return {package.strip(): version.strip() for package, version in pins}


def python_of(name: str | None, venvs: Path) -> Path:
    """Return the interpreter of a rival, installed if need be; None: this one."""
    if name is None:
        return Path(sys.executable)
    folder = venvs / f"serving-{name}"
    wanted = hashlib.sha256(requirements_of(name).read_bytes()).hexdigest()
    done, python = folder / DONE, folder / "bin" / "python"
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"installing requirements-{name}.txt into {folder} (minutes)", file=sys.stderr)
    if not python.exists():
        _call([sys.executable, "-m", "venv", str(folder)])
    _call([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements_of(name))])
    done.write_text(wanted)
    return python


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=sys.stderr, check=False)
    if done.returncode:
        raise RivalError(
            f"{' '.join(command)} ended with code {done.returncode}; its messages stand above"
        )
