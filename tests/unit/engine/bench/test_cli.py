"""The flags of `mmsr-bench`, as a user types them."""

import sys
from pathlib import Path

import pytest

from mmsr.engine.bench.cli import main


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
