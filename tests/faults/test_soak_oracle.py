"""The oracle of a soak: what it takes for right is, and every kind of wrong reply is found."""

from collections.abc import Callable
from pathlib import Path

import pytest
from support.soak_oracle import History, Oracle, Said, switched
from support.tiny_bundle import Shop, Sizes, publish

from mmsr.v1 import recommender_pb2 as pb

SENT_S, DONE_S = 10.0, 11.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    sizes = Sizes(items=60, probes=4)
    return publish(tmp_path_factory.mktemp("shop") / "repository", sizes)


def asked(*history: str, k: int = 5) -> pb.RecommendRequest:
    return pb.RecommendRequest(history=history, k=k)


def right(shop: Shop, request: pb.RecommendRequest) -> pb.RecommendResponse:
    """Return what a server says that knows the bundle alone."""
    history = list(request.history)
    barred = [*history, *request.excluded_ids]
    best = shop.twin.recommend(history, request.k, barred)
    return pb.RecommendResponse(
        item_ids=[item_id for item_id, _ in best],
        scores=[score for _, score in best],
        model_version=shop.folder.name,
    )


def problem(
    shop: Shop, history: History, request: pb.RecommendRequest, reply: pb.RecommendResponse
) -> str | None:
    return Oracle([shop], history).problem(request, reply, SENT_S, DONE_S)


def changed(*versions: tuple[dict[str, Said], float, float]) -> History:
    """Return a catalogue whose versions were sent and acknowledged at those times."""
    history = History()
    for said_of, sent_s, acknowledged_s in versions:
        history.begin(said_of, sent_s)
        history.acknowledge(acknowledged_s)
    return history


def test_a_right_answer_is_right(shop: Shop) -> None:
    request = asked("item-3", "item-8")
    request.excluded_ids.append("item-5")
    assert problem(shop, History(), request, right(shop, request)) is None


def swap(reply: pb.RecommendResponse) -> None:
    reply.item_ids[0], reply.item_ids[1] = reply.item_ids[1], reply.item_ids[0]


def drop(reply: pb.RecommendResponse) -> None:
    del reply.item_ids[-1], reply.scores[-1]


def another(reply: pb.RecommendResponse) -> None:
    reply.item_ids[4] = "item-3"  # seen


def twice(reply: pb.RecommendResponse) -> None:
    reply.item_ids[1] = reply.item_ids[0]


def nudge(reply: pb.RecommendResponse) -> None:
    reply.scores[2] += 0.01


def unknown(reply: pb.RecommendResponse) -> None:
    reply.unknown_item_ids.append("item-3")


def popular(reply: pb.RecommendResponse) -> None:
    reply.fallback = pb.FALLBACK_POPULARITY


def elsewhere(reply: pb.RecommendResponse) -> None:
    reply.model_version = "0123456789abcdef"


def later(reply: pb.RecommendResponse) -> None:
    reply.catalogue_version = 7


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (swap, "a score is wrong"),
        (drop, "4 items, 4 different, expected 5"),
        (another, "['item-3'] must not come back"),
        (twice, "5 items, 4 different"),
        (nudge, "a score is wrong"),
        (unknown, "unknown ['item-3'], expected []"),
        (popular, "fallback True"),
        (elsewhere, "which nobody published"),
        (later, "version 7 of the catalogue"),
    ],
)
def test_every_kind_of_wrong_answer_is_found(
    shop: Shop, damage: Callable[[pb.RecommendResponse], None], said: str
) -> None:
    request = asked("item-3", "item-8")
    reply = right(shop, request)
    damage(reply)
    assert said in str(problem(shop, History(), request, reply))


def test_an_item_below_the_best_is_found_and_a_tie_is_none(shop: Shop) -> None:
    request, more = asked("item-3", k=5), asked("item-3", k=6)
    reply, longer = right(shop, request), right(shop, more)
    reply.item_ids[4], reply.scores[4] = longer.item_ids[5], longer.scores[5]
    assert "the 5th best" in str(problem(shop, History(), request, reply))


def test_a_state_older_than_the_last_acknowledged_one_is_found(shop: Shop) -> None:
    request = asked("item-3")
    best = right(shop, request).item_ids[0]
    gone = {best: Said(present=False, available=False)}
    acknowledged = changed((gone, 8.0, 9.0))
    assert "version 0 of the catalogue, expected one of [1]" in str(
        problem(shop, acknowledged, request, right(shop, request))
    )


def test_while_a_change_is_under_way_both_states_are_right(shop: Shop) -> None:
    request, both = asked("item-3"), asked("item-3", k=6)
    best = right(shop, request).item_ids[0]
    under_way = changed(({best: Said(present=False, available=False)}, 10.5, 12.0))
    assert problem(shop, under_way, request, right(shop, request)) is None
    after = right(shop, both)
    del after.item_ids[0], after.scores[0]
    assert problem(shop, under_way, request, after) is None
    after.item_ids[0] = best
    assert problem(shop, under_way, request, after) is not None


def test_what_is_switched_off_must_not_come_back(shop: Shop) -> None:
    request = asked("item-3")
    best = right(shop, request).item_ids[0]
    off = switched(None, available=False)
    assert off is not None
    reply = right(shop, request)
    reply.catalogue_version = 1
    assert f"['{best}'] must not" in str(
        problem(shop, changed(({best: off}, 1.0, 2.0)), request, reply)
    )
    assert switched(Said(present=False), available=True) is None


def test_a_live_item_counts_by_its_own_vector(shop: Shop, tmp_path: Path) -> None:
    request = asked("item-3")
    twin = shop.twin
    vector_D = 10 * twin.state([4])
    live = {"new-1": Said(vector_D=vector_D, popularity=1)}
    reply = right(shop, asked("item-3", k=4))
    reply.item_ids.insert(0, "new-1")
    reply.scores.insert(0, float(vector_D @ twin.state([4])))
    reply.catalogue_version = 1
    assert problem(shop, changed((live, 1.0, 2.0)), request, reply) is None
    assert problem(shop, changed((live, 1.0, 2.0)), request, right(shop, request)) is not None
