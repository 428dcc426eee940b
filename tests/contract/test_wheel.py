"""The wheel: all four parts, the generated code, the types, the five commands, the licence."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.tree import ROOT, SOURCE_ROOTS


def built(source: Path, folder: Path) -> Path:
    """Build the wheel of a tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environment = {k: v for k, v in os.environ.items() if k != "SOURCE_DATE_EPOCH"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built(ROOT, tmp_path_factory.mktemp("wheel")))


def test_another_checkout_builds_the_same_bytes(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for root in SOURCE_ROOTS:
        left_out = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / root / "mmsr", tree / root / "mmsr", ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    for path in tree.rglob("*.py"):  # a checkout by another person, at another time
        path.chmod(0o600)
        os.utime(path, (1, 1))
    again = built(tree, tmp_path / "out")
    assert again.name == Path(str(wheel.filename)).name
    assert again.read_bytes() == Path(str(wheel.filename)).read_bytes()


def files_on_disk() -> set[str]:
    """Return the package's files as the wheel should name them."""
    found = set()
    for root in SOURCE_ROOTS:
        for path in (ROOT / root / "mmsr").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(str(path.relative_to(ROOT / root)))
    return found


def test_it_holds_every_file_of_the_four_parts(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files_on_disk()
    assert "mmsr/v1/recommender_pb2.py" in names
    assert {
        f"mmsr/{part}/py.typed" for part in ("v1", "oip", "bundle", "training", "export", "engine")
    } <= (names)


def test_it_declares_the_commands_and_the_licence(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    lines = wheel.read(entry_points).decode().splitlines()
    scripts = {line.partition(" = ")[0] for line in lines if line.startswith("mmsr-")}
    assert scripts == {"mmsr-train", "mmsr-export", "mmsr-repo", "mmsr-serve", "mmsr-bench"}
    (licence,) = [n for n in wheel.namelist() if n.endswith("licenses/LICENSE")]
    assert b"Apache License" in wheel.read(licence)


def test_the_core_asks_for_little(wheel: zipfile.ZipFile) -> None:
    (metadata,) = [n for n in wheel.namelist() if n.endswith("METADATA")]
    lines = wheel.read(metadata).decode().splitlines()
    needed = [
        line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    names = {line.split()[1].rstrip("<>=!,.0123456789") for line in needed}
    assert names == {"numpy", "pyarrow", "typer"}
