"""The locked sets: every file by its hash, no address of any place, one version of everything."""

import re
import tomllib
from pathlib import Path

import pytest
from support.tree import ROOT

LOCKS = sorted((ROOT / ".ci").glob("requirements*.txt"))
SETS = {"", "-cpu", "-cuda", "-build", "-lowest", "-tools"}
PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+]*)( ;.*)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
FLOOR = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)")


def entries(path: Path) -> list[str]:
    """Return the lock's entries, each with its continued lines in one."""
    return [line for line in path.read_text().replace("\\\n", " ").splitlines() if line.strip()]


def pins(path: Path) -> dict[str, set[str]]:
    """Return the versions by package; by platform there may be several."""
    found: dict[str, set[str]] = {}
    for entry in entries(path):
        match = PIN.match(entry)
        assert match is not None, entry[:80]
        found.setdefault(match[1].lower().replace("_", "-"), set()).add(match[2])
    return found


def lock(name: str) -> Path:
    return ROOT / ".ci" / f"requirements{name}.txt"


def test_there_is_a_lock_for_each_purpose() -> None:
    assert {path.stem.removeprefix("requirements") for path in LOCKS} == SETS


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_one_version_with_hashes(path: Path) -> None:
    assert len(entries(path)) > 5
    for entry in entries(path):
        requirement, *hashes = entry.partition("--hash")[0], *HASH.findall(entry)
        assert PIN.fullmatch(requirement.strip()), entry[:80]
        assert hashes, entry[:80]
        assert entry.count("--") == len(hashes), entry[:80]  # no option but hashes


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_no_lock_says_where_a_file_is_fetched_from(path: Path) -> None:
    assert not re.search(r"://|--index|--find-links|--trusted-host| @ |file:", path.read_text())


@pytest.mark.parametrize("name", ["-cpu", "-cuda", "-build"])
def test_what_is_served_with_is_what_is_tested_with(name: str) -> None:
    tested = pins(lock(""))
    others = {p: v for p, v in pins(lock(name)).items() if not v <= tested.get(p, set())}
    assert others == {}


def test_a_server_needs_no_training_and_a_gpu_one_its_bindings() -> None:
    cpu, cuda = pins(lock("-cpu")), pins(lock("-cuda"))
    assert not cpu.keys() & {"torch", "torchvision", "transformers", "onnxscript", "pytest"}
    assert {"grpcio", "onnxruntime-gpu", "opentelemetry-sdk"} <= cpu.keys()
    assert cpu.keys() < cuda.keys()
    assert "cuda-bindings" in cuda.keys() - cpu.keys()


def test_the_oldest_set_is_as_old_as_the_project_says_it_may_be() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(r for n in ("training", "engine", "otel") for r in extras[n]),
    ]
    wanted += extras["export"]
    oldest = pins(lock("-lowest"))
    newer = {}
    for requirement in wanted:
        match = FLOOR.match(requirement)
        if match is None:  # mmsr[training]
            continue
        name, floor = match[1].lower().replace("_", "-"), match[2]
        found = {same(version, floor) for version in oldest[name]}
        if True not in found:
            newer[name] = (floor, oldest[name])
    assert newer == {}


def same(version: str, floor: str) -> bool:
    """Say whether a version is the floor, up to zeros at the end."""
    numbers = [[int(n) for n in text.split(".") if n.isdecimal()] for text in (version, floor)]
    length = max(map(len, numbers))
    first, second = (each + [0] * (length - len(each)) for each in numbers)
    return first == second
