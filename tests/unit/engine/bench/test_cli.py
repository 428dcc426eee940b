"""The flags of `mmsr-bench`, as a user types them."""

import inspect
import sys
from pathlib import Path
from typing import Any

import pytest

from mmsr.engine.bench import manual
from mmsr.engine.bench.cli import app, main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("server", "h:1", "--repository", "{}/none"), "is not a repository"),
        (("server", "h:1", "--repository", "{}", "--rate", "fast"), "'fast' is no number"),
        (("server", "h:1", "--repository", "{}", "--duration-s", "nan"), "duration-s is nan"),
        (("engine", "--repository", "{}/none"), "is not a repository"),
        (("engine", "--repository", "{}", "--batch", "0"), "no whole number above zero"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    filled = [argument.format(tmp_path) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["mmsr-bench", *filled])
    with pytest.raises(SystemExit) as exit_:
        main()
    out, err = capsys.readouterr()
    assert exit_.value.code == 1
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


def commands() -> dict[str, set[str]]:
    """Return the options of every scenario."""
    return {
        command.callback.__name__: {
            name.removesuffix("_file").replace("_", "-")
            for name in inspect.signature(command.callback).parameters
        }
        for command in app.registered_commands
        if command.callback is not None
    }


PAGES = {name: text for name, text in vars(manual).items() if name.isupper()}


def test_every_scenario_has_a_manual_page_with_examples_that_fit_a_terminal() -> None:
    assert {name.lower() for name in PAGES} == commands().keys() | {"main"}
    for name, text in PAGES.items():
        examples = [line for line in text.splitlines() if line.startswith("  mmsr-bench ")]
        assert examples, name
        assert all(len(line) <= 78 for line in examples), name
        if name != "MAIN":
            assert all(line.split()[1] == name.lower() for line in examples), name


def defaults(scenario: str) -> dict[str, Any]:
    """Return what a scenario does if nothing else is said."""
    [found] = [c.callback for c in app.registered_commands if c.callback.__name__ == scenario]  # type: ignore[union-attr]
    assert found is not None
    return {name: p.default for name, p in inspect.signature(found).parameters.items()}


def test_comparisons_are_of_five_rounds_of_fifteen_seconds_unless_said_otherwise() -> None:
    for scenario in ("compare", "catalogue"):
        assert (defaults(scenario)["rounds"], defaults(scenario)["duration_s"]) == (5, 15.0)


@pytest.mark.parametrize("scenario", ["server", "slo", "overload", "reload", "catalogue"])
def test_loads_warm_up_and_are_set_beside_their_ceilings_unless_said_otherwise(
    scenario: str,
) -> None:
    assert defaults(scenario)["ceilings"] is True
    assert defaults(scenario)["warm_up_s"] >= 1.0


def test_examples_name_options_that_exist() -> None:
    lines = [line for text in PAGES.values() for line in text.splitlines()]
    for line in (line for line in lines if line.startswith("  mmsr-bench ")):
        used = {word.removeprefix("--") for word in line.split() if word.startswith("--")}
        assert used <= commands()[line.split()[1]], line
