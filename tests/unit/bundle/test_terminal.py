"""What a command says when it fails: one line that a terminal can show, and an exit code."""

import sys
from collections.abc import Callable

import pytest
import typer

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.terminal import MOST_SAID, run


def ended(
    raised: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[object, str]:
    """Run a command that fails so; return its exit code and what it said."""
    app = typer.Typer(pretty_exceptions_enable=False)
    command: Callable[[], None] = lambda: fail(raised)  # noqa: E731
    app.command()(command)
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as code:
        run(app)
    return code.value.code, capsys.readouterr().err


def fail(raised: BaseException) -> None:
    raise raised


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (MmsrError("a.csv: found é"), "error: a.csv: found é\n"),
        (MmsrError("\x1b]0;title\x07\r\ud800"), "error: " + "�" + "]0;title" + "�" * 3 + "\n"),
        (MmsrError("x" * 5000), "error: " + "x" * MOST_SAID + "…\n"),
        (OSError(28, "No space left on device", "a\x1bb"), "error: a�b: No space left on device\n"),
        (MemoryError(), "error: out of memory; give this command more, or less to read\n"),
    ],
)
def test_an_error_is_one_line_that_garbles_no_terminal(
    raised: BaseException,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(raised, monkeypatch, capsys) == (1, said)


def test_several_problems_may_stand_on_lines_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(MmsrError("a\n       b"), monkeypatch, capsys)[1] == "error: a\n       b\n"
