"""Build the wheel into dist/ twice, the same bytes, and try it in an environment that has no other.

The second build is of a copy elsewhere, later, with other permissions. Then the wheel is installed
beside the packages of requirements-cpu.txt alone, and has to serve a small bundle and be asked.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import ROOT, environment, pip
from stages import end, wait_for_port

DIST = ROOT / "dist"
SOURCES = ("training/mmsr", "export/mmsr", "engine/mmsr", "proto/mmsr")
FILES = ("pyproject.toml", "README.md", "LICENSE")
MAKE_BUNDLE = """
import sys
from pathlib import Path
from support.tiny_bundle import publish
publish(Path(sys.argv[1]))
"""
IMPORTS = "import mmsr.engine.server, mmsr.engine.client, mmsr.bundle.manifest, mmsr.v1"
READY_S = 120.0


class SmokeError(Exception):
    """The wheel is not what it should be."""


def build(source: Path, folder: Path) -> Path:
    """Build the wheel of a tree; return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    # Files in a wheel have times; hatchling writes one that never changes, unless this is set.
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    subprocess.run(command, cwd=source, env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("*.whl")
    return wheel


def copied(folder: Path) -> Path:
    """Copy what the wheel is built from, as a checkout by somebody else might have it."""
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    for path in folder.rglob("*.py"):
        path.chmod(0o600)
        os.utime(path, (1, 1))
    return folder


def reproducible() -> Path:
    """Build twice; return the wheel in dist/, or `SmokeError` if the two differ."""
    DIST.mkdir(exist_ok=True)
    for old in DIST.glob("*.whl"):
        old.unlink()
    wheel = build(ROOT, DIST)
    with tempfile.TemporaryDirectory() as name:
        elsewhere = Path(name)
        other = build(copied(elsewhere / "tree"), elsewhere / "out")
        if other.read_bytes() != wheel.read_bytes():
            raise SmokeError(f"{wheel.name}: a second build has other bytes")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    print(f"wheel: dist/{wheel.name}, {wheel.stat().st_size:,} bytes, twice the same")
    print(f"wheel: sha256 {digest}")
    return wheel


def said_by(command: list[str | Path], folder: Path) -> str:
    """Run a command outside the tree; return what it printed, or `SmokeError` if it failed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    line = [str(part) for part in command]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SmokeError(f"{Path(line[0]).name} {' '.join(line[1:3])}: {done.stderr.strip()}")
    return done.stdout


def smoke(wheel: Path, folder: Path) -> None:
    """Install the wheel alone, serve a bundle with it, and ask."""
    bin_folder = environment(".venv-serve", "requirements-cpu.txt")
    pip(bin_folder, "--no-deps", "--force-reinstall", str(wheel))
    said_by([bin_folder / "python", "-m", "pip", "check"], folder)
    said_by([bin_folder / "python", "-c", IMPORTS], folder)
    for name in ("mmsr-serve", "mmsr-bench", "mmsr-repo", "mmsr-train", "mmsr-export"):
        said_by([bin_folder / name, "--help"], folder)
    repository, port_file = folder / "repository", folder / "port"
    subprocess.run(
        [sys.executable, "-c", MAKE_BUNDLE, str(repository)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        check=True,
    )
    command: list[str | Path] = [bin_folder / "mmsr-serve", "--repository", repository]
    process = subprocess.Popen([*command, "--port", "0", "--port-file", port_file], cwd=folder)
    try:
        target = f"127.0.0.1:{wait_for_port(process, port_file, READY_S)}"
        ask = [bin_folder / "python", "-m", "mmsr.engine.client", target, "--history", "item-1"]
        answer = said_by([*ask, "-k", "3"], folder)
    finally:
        end(process, 30.0)
    if process.returncode or not answer.strip():
        raise SmokeError(f"mmsr-serve ended with {process.returncode}, answered {answer!r}")
    print(f"wheel: alone in an environment it serves and answers\n{answer.rstrip()}")


def main() -> None:
    """Build, compare, install, serve, ask."""
    try:
        wheel = reproducible()
        with tempfile.TemporaryDirectory() as folder:
            smoke(wheel, Path(folder))
    except SmokeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
