from pathlib import Path

import pytest
from support.tiny_bundle import Shop
from typer.testing import CliRunner

from mmsr.engine.client import Recommendations, RecommenderClient
from mmsr.engine.client_cli import app, facts, joined_hint, read_token, table, titles, wait
from mmsr.engine.errors import ConfigError, InvalidRequest, Unavailable


def answer(
    fallback: str | None = None, unknown: int = 1, named: tuple[str, ...] = ()
) -> Recommendations:
    return Recommendations(
        items=(("item-3", 4.25), ("item-10", -1.0)),
        model_version="0123456789abcdef",
        queue_us=120,
        compute_us=340,
        batch_size=7,
        unknown_ids=unknown,
        fallback=fallback,
        unknown_item_ids=named,
    )


def test_the_table_is_aligned_and_shows_titles() -> None:
    assert table(answer(), {"item-3": "A chair"}).splitlines() == [
        "rank  id       title     score",
        "   1  item-3   A chair   4.250",
        "   2  item-10  -        -1.000",
        "model 0123456789abcdef, queue 0.12 ms, compute 0.34 ms, batch of 7, unknown ids 1",
    ]


def test_a_popular_answer_says_so() -> None:
    assert "by popularity (score: interactions)" in facts(answer("popularity"))


def test_unknown_ids_are_named_where_the_server_names_them() -> None:
    assert facts(answer(unknown=2)).endswith("unknown ids 2")
    assert facts(answer(unknown=3, named=("x", "y"))).endswith("unknown ids 3: x, y")
    many = tuple(f"x{n}" for n in range(6))
    assert facts(answer(unknown=6, named=many)).endswith("unknown ids 6: x0, x1, x2, x3, x4, …")


def test_a_comma_in_an_unknown_id_is_spoken_of() -> None:
    assert joined_hint(answer(named=("x", "a,b"))) == (
        "hint: 'a,b' was taken as one id; give each item its own --history"
    )
    assert joined_hint(answer(named=("x",))) is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["h:1", "-k", "-3"], "Invalid value for '-k'"),
        (["h:1", "-k", "1001"], "Invalid value for '-k'"),
        (["h:1", "--deadline-ms", "0"], "Invalid value for '--deadline-ms'"),
        (["h:1", "--wait-s", "-1"], "Invalid value for '--wait-s'"),
    ],
)
def test_numbers_out_of_range_are_refused_before_the_server_is_asked(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_a_target_without_a_port_is_refused_before_anybody_waits() -> None:
    with pytest.raises(ConfigError, match="target 'localhost'; expected HOST:PORT"):
        CliRunner().invoke(app, ["localhost"], catch_exceptions=False)


def test_one_text_is_no_history() -> None:
    with RecommenderClient("127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match="history is the text 'item-1'; expected a list"):
            client.recommend("item-1", 5)
        with pytest.raises(InvalidRequest, match="excluded_ids is the text 'x'"):
            client.recommend(["item-1"], 5, excluded_ids="x")


def test_titles_are_those_of_the_bundle_that_answered(shop: Shop) -> None:
    assert titles(shop.root, shop.folder.name)["item-3"] == "Title of item-3"


class Later(RecommenderClient):
    """Finds no server within the first second."""

    def __init__(self, starts_after_s: float) -> None:
        self.starts_after_s = starts_after_s

    def wait_until_serving(self, deadline_s: float = 60.0) -> None:
        self.starts_after_s -= deadline_s
        if self.starts_after_s > 0:
            raise Unavailable("not serving")


def test_a_server_that_serves_is_not_spoken_of(capsys: pytest.CaptureFixture[str]) -> None:
    wait(Later(0.5), "h:1", 60)
    assert capsys.readouterr() == ("", "")


def test_a_wait_for_the_server_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    wait(Later(5), "h:1", 60)
    assert capsys.readouterr() == ("", "h:1 does not serve yet; waiting up to 60 s …\n")
    with pytest.raises(Unavailable):
        wait(Later(100), "h:1", 60)


def test_a_wait_of_a_moment_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unavailable):
        wait(Later(5), "h:1", 0.5)
    assert capsys.readouterr() == ("", "")


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert read_token(file) == "s3cret"
    with pytest.raises(ConfigError, match=r"--token-file .*missing cannot be read"):
        read_token(tmp_path / "missing")


def test_a_token_is_not_sent_to_another_machine_in_clear_text(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret")
    arguments = ["shop.example:1", "--token-file", str(file)]
    with pytest.raises(ConfigError, match="in clear text; set tls") as refused:
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "s3cret" not in str(refused.value)
