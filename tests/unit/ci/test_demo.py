"""What `make demo` says at its end."""

import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.small_shop import write_shop
from support.tiny_bundle import Sizes, publish
from support.tree import ROOT

OPTIONS = ROOT / "tests" / "contract" / "cli_options.txt"


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return .ci/demo.py, which is in no package and imports its neighbour."""
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    spec = importlib.util.spec_from_file_location("demo", ROOT / ".ci" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_next_steps_are_commands_of_this_demo(demo: ModuleType, tmp_path: Path) -> None:
    shop = publish(tmp_path / "repository", Sizes(items=30, width=4, max_length=8, probes=8))
    write_shop(tmp_path / "data")
    text = demo.next_steps(demo.Demo(data=None, folder=tmp_path, epochs=None))
    commands = [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]
    named = [Path(command[0]).name for command in commands]
    assert named == ["mmsr-serve", "python", "mmsr-train", "mmsr-train"]
    assert all(str(tmp_path) in " ".join(command) for command in commands)
    history = [part.removeprefix("--history=") for part in commands[1] if "--history" in part]
    assert history
    assert set(history) <= set(shop.twin.ids)
    assert commands[3][commands[3].index("--user") + 1] == "u0"
    known = dict(line.split(": ", 1) for line in OPTIONS.read_text().splitlines())
    for command, name in zip(commands, ("mmsr-serve", "", "report", "explain"), strict=True):
        if name:
            full = name if name.startswith("mmsr") else f"mmsr-train {name}"
            flags = [part for part in command if part.startswith("--")]
            assert set(flags) <= set(known[full].split())
