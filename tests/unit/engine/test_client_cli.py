import pytest
from support.tiny_bundle import Shop

from mmsr.engine.client import Recommendations, RecommenderClient
from mmsr.engine.client_cli import facts, table, titles, wait
from mmsr.engine.errors import Unavailable


def answer(fallback: str | None = None) -> Recommendations:
    return Recommendations(
        items=(("item-3", 4.25), ("item-10", -1.0)),
        model_version="0123456789abcdef",
        queue_us=120,
        compute_us=340,
        batch_size=7,
        unknown_ids=1,
        fallback=fallback,
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
