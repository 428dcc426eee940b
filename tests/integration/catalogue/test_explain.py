"""Explanations of items that were written while the server serves, beside numpy, over a socket."""

# n items of the history, D output width

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Shop
from support.tiny_explain import SHARES, with_explain
from support.tiny_live import Floats, expected_output, publish_live

from mmsr.engine.client import CatalogueClient, Explanations, Item, RecommenderClient
from mmsr.engine.errors import InvalidRequest

ATOL = 1e-3  # of scores up to about 100; numpy and ONNX Runtime sum in other orders
FIRST, SECOND = (2.0, -1.0, 3.0), (-4.0, 2.0, 1.0)
LARGE = (40.0, -30.0, 25.0)
Known = dict[str, Floats]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop") / "repository"
    return publish_live(root, complete=with_explain)


@pytest.fixture(scope="module")
def served(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("store") / "catalogue.db"
    with serving(shop.root, "--catalogue", str(path)) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[RecommenderClient]:
    with RecommenderClient(served.target, PATIENCE_S) as opened:
        opened.wait_until_serving(PATIENCE_S)
        yield opened


@pytest.fixture
def catalogue(served: Served) -> Iterator[CatalogueClient]:
    with CatalogueClient(served.target, PATIENCE_S) as opened:
        yield opened


def known(shop: Shop, *live: tuple[str, Sequence[float]]) -> Known:
    """Return the vector of every item, those of `live` made of image features as item.onnx does.

    For the live fixtures an item's inputs begin with its outputs.
    """
    rows = {item_id: shop.twin.outputs_CD[row] for row, item_id in enumerate(shop.twin.ids, 1)}
    for item_id, image in live:
        trained = 1 + shop.twin.ids.index(item_id) if item_id in shop.twin.ids else 0
        rows[item_id] = expected_output(shop, trained=trained, image=image)
    return rows


def inputs_of(shop: Shop, rows: Known, live: Sequence[str], item_id: str) -> Floats:
    if item_id in live:
        return rows[item_id]
    inputs: Floats = shop.twin.inputs_CW[1 + shop.twin.ids.index(item_id), : shop.sizes.width]
    return inputs


def check(
    shop: Shop, answer: Explanations, history: Sequence[str], *live: tuple[str, Sequence[float]]
) -> None:
    """Compare every number of an explanation with the model in numpy."""
    rows = known(shop, *live)
    names = [item_id for item_id, _ in live]
    vectors_nD = np.stack([inputs_of(shop, rows, names, item_id) for item_id in history])
    assert answer.history == tuple(history)
    assert answer.attention == pytest.approx([1 / len(history)] * len(history))
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    for item in answer.items:
        score = float(rows[item.item_id] @ vectors_nD.mean(axis=0))
        without = [
            float(rows[item.item_id] @ np.delete(vectors_nD, place, axis=0).mean(axis=0))
            for place in range(len(history))
        ]
        assert item.score == pytest.approx(score, abs=ATOL)
        assert item.history_changes == pytest.approx([s - score for s in without], abs=ATOL)
        shares = {source: -share * score for source, share in SHARES.items()}
        assert item.source_changes == pytest.approx(shares, abs=ATOL)


def test_a_live_item_is_explained_and_explains_wherever_it_stands(
    client: RecommenderClient, catalogue: CatalogueClient, shop: Shop
) -> None:
    """As an item asked about and as one of the history; new, and in a trained item's place."""
    catalogue.upsert([Item(item_id="new-1", image_features=FIRST)])
    history = ["item-3", "new-1", "item-8"]
    asked = ["new-1", "item-7", "item-9", "unknown"]
    first = client.explain(history, asked)
    assert {item.item_id for item in first.items} == {"new-1", "item-7", "item-9"}
    assert first.unknown_item_ids == ("unknown",)
    check(shop, first, history, ("new-1", FIRST))
    # Both move to other rows, with the graph in memory.
    catalogue.upsert(
        [
            Item(item_id="new-1", image_features=SECOND),
            Item(item_id="item-7", image_features=FIRST),
        ]
    )
    second = client.explain(history, asked)
    check(shop, second, history, ("new-1", SECOND), ("item-7", FIRST))
    assert second.catalogue_version > first.catalogue_version
    history = ["new-1", "item-7"]
    check(shop, client.explain(history, ["item-7"]), history, ("new-1", SECOND), ("item-7", FIRST))
    catalogue.delete(["new-1", "item-7"])


def test_a_live_item_among_the_best_is_explained_with_the_score_that_it_has(
    client: RecommenderClient, catalogue: CatalogueClient, shop: Shop
) -> None:
    catalogue.upsert(
        [
            Item(item_id="seen", image_features=LARGE),
            Item(item_id="like it", image_features=[1.01 * number for number in LARGE]),
        ]
    )
    history = ["item-3", "seen"]
    best = client.recommend(history, 10)
    answer = client.explain(history)
    assert [item.item_id for item in answer.items] == [item_id for item_id, _ in best.items]
    assert [item.score for item in answer.items] == pytest.approx(
        [score for _, score in best.items], rel=1e-5
    )
    first = answer.items[0]
    assert first.item_id == "like it"
    assert first.history_changes[1] < 0 < first.history_changes[0]  # "seen" speaks for it
    catalogue.set_availability(["like it"], available=False)
    assert "like it" not in {item.item_id for item in client.explain(history).items}
    [hidden] = client.explain(history, ["like it"]).items  # who names it is answered
    assert hidden.score == pytest.approx(first.score)
    catalogue.delete(["seen", "like it"])


def test_what_was_deleted_is_unknown(client: RecommenderClient, catalogue: CatalogueClient) -> None:
    catalogue.upsert([Item(item_id="gone", image_features=FIRST)])
    assert client.explain(["gone", "item-3"], ["gone"]).items
    catalogue.delete(["gone"])
    answer = client.explain(["gone", "item-3"], ["gone", "item-5"])
    assert (answer.history, answer.unknown_item_ids) == (("item-3",), ("gone",))
    assert [item.item_id for item in answer.items] == ["item-5"]
    with pytest.raises(InvalidRequest, match="none of which the catalogue knows"):
        client.explain(["gone"])
