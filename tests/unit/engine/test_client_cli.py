from support.tiny_bundle import Shop

from mmsr.engine.client import Recommendations
from mmsr.engine.client_cli import facts, table, titles


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
