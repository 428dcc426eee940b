"""Makes environments beside .venv, each from a lock with hashes, and keeps those that are done."""

import hashlib
import shutil
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAMP = "mmsr-lock"
QUIET = ("--quiet", "--no-input", "--disable-pip-version-check")


def environment(name: str, lock: str) -> Path:
    """Return the bin folder of ROOT/`name`, which holds what .ci/`lock` names and no more.

    One whose lock has changed since is made anew.
    """
    folder, file = ROOT / name, ROOT / ".ci" / lock
    stamp, wanted = folder / STAMP, hashlib.sha256(file.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip(folder / "bin", "--require-hashes", "-r", str(file))
        stamp.write_text(wanted)
    return folder / "bin"


def pip(bin_folder: Path, *arguments: str) -> None:
    """Run `pip install`; `CalledProcessError` if it fails."""
    command = [str(bin_folder / "python"), "-m", "pip", "install", *QUIET, *arguments]
    subprocess.run(command, cwd=ROOT, check=True)
