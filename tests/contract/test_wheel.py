"""The wheel: all four parts, the generated code, the types, the five commands, the licence."""

import subprocess
import sys
import zipfile

import pytest
from support.tree import ROOT, SOURCE_ROOTS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


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
