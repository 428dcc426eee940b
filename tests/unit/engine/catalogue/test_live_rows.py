"""Changes of one model's tables, against a dict and brute force over it."""

# C rows of the tables, D output width

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny_bundle import Shop, Sizes
from support.tiny_explain import with_explain
from support.tiny_live import CATEGORIES, Floats, expected_output, publish_live

from mmsr.engine.asides import Asides
from mmsr.engine.batch_times import BatchTimes
from mmsr.engine.batcher import Batcher
from mmsr.engine.catalogue.encoders import key_of
from mmsr.engine.catalogue.live_rows import Change, LiveRows, data_time_s
from mmsr.engine.catalogue.records import Content, Record
from mmsr.engine.compute import Done
from mmsr.engine.config import BatchConfig, Limits
from mmsr.engine.errors import CatalogueFull
from mmsr.engine.explaining import ExplainItems
from mmsr.engine.model import CategoryFilter, RowRequest, open_model
from mmsr.engine.query import ExplainQuery, ExplainReply
from mmsr.engine.service import ModelFacts, Service

SIZES = Sizes(items=58, spare=5, probes=4)
IDS = ("item-1", "item-2", "item-11", "new-1", "new-2")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_live(tmp_path_factory.mktemp("shop") / "repository", SIZES)


def opened(shop: Shop) -> LiveRows:
    live = LiveRows(open_model(shop.folder, threads=1))
    live.reader.projector.open()
    return live


def close(live: LiveRows) -> None:
    live.reader.projector.close()
    live.model.close()


@pytest.fixture
def live(shop: Shop) -> Iterator[LiveRows]:
    found = opened(shop)
    yield found
    close(found)


def change(item_id: str, image: tuple[float, ...] = (), **said: object) -> Change:
    """Return an upsert with image features."""
    vector = np.array(image, np.float32)
    content = Content(image=key_of(vector.tobytes()) if image else b"")
    record = Record(item_id, 1, content, written_s=1e10)._replace(**said)  # type: ignore[arg-type]
    return Change(record, {("image", image): vector} if image else {})  # type: ignore[dict-item]


def write(live: LiveRows, *changes: Change, version: int = 1) -> None:
    """Do all three steps, with features under the key that the model reads."""
    encoder = live.reader.encoders["image"]
    keyed = [
        found._replace(
            features={encoder.feature_key(key_of(v.tobytes())): v for v in found.features.values()}
        )
        if found.features
        else found
        for found in changes
    ]
    plan = live.plan(keyed, version)
    live.show(plan, live.apply(plan))


def deletion(item_id: str) -> Change:
    return Change(Record(item_id, 1, available=False, deleted=True), None)


def switch(item_id: str, available: bool) -> Change:
    return Change(Record(item_id, 1, available=available), None)


def all_of(live: LiveRows, history: list[str], **filters: object) -> dict[str, float]:
    """Return every item that may come back, with its score."""
    numbers = live.index.rows_of(history)
    request = RowRequest(numbers, [], len(live.index))._replace(**filters)  # type: ignore[arg-type]
    [answer] = live.model.recommend([request])
    return dict(zip(live.index.ids_of(answer.rows), answer.scores, strict=True))


def popular(live: LiveRows, k: int) -> dict[str, float]:
    """Return the most popular items and how popular they are."""
    rows, popularity = live.model.named.most_popular(RowRequest([], [], k))
    return dict(zip(live.index.ids_of(rows), popularity, strict=True))


class Known(NamedTuple):
    inputs_W: Floats
    outputs_D: Floats
    available: bool


def bundle_items(shop: Shop) -> dict[str, Known]:
    twin = shop.twin
    return {
        item_id: Known(twin.inputs_CW[row], twin.outputs_CD[row], bool(twin.available_N[row - 1]))
        for row, item_id in enumerate(twin.ids, start=1)
    }


upserts = st.builds(
    lambda item_id, image, available: ("upsert", item_id, image, available),
    st.sampled_from(IDS),
    st.tuples(*[st.integers(-3, 3).map(float)] * 3),
    st.booleans(),
)
others = st.tuples(
    st.sampled_from(["delete", "switch"]), st.sampled_from(IDS), st.none(), st.booleans()
)


@given(st.lists(upserts | others, max_size=25))
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_after_any_changes_answers_are_those_of_brute_force_over_a_dict(
    shop: Shop, actions: list[tuple[str, str, tuple[float, ...] | None, bool]]
) -> None:
    live, known = opened(shop), bundle_items(shop)
    width = shop.sizes.width
    trained = {item_id: row for row, item_id in enumerate(shop.twin.ids, start=1)}
    for kind, item_id, image, available in actions:
        if kind == "upsert" and image is not None:
            write(live, change(item_id, image, available=available))
            row = expected_output(shop, trained=trained.get(item_id, 0), image=image)
            known[item_id] = Known(np.append(row, row[:4]), row, available)
        elif kind == "delete":
            write(live, deletion(item_id))
            known.pop(item_id, None)
        else:
            write(live, switch(item_id, available))
            if item_id in known:
                known[item_id] = known[item_id]._replace(available=available)
    history: list[str] = [i for i in ("item-5", "item-1", "new-1") if i in known]
    state = np.mean([known[item_id].inputs_W[:width] for item_id in history], axis=0)
    right = {i: float(of.outputs_D @ state) for i, of in known.items() if of.available}
    found = all_of(live, history)
    assert found.keys() == right.keys()
    assert list(found.values()) == pytest.approx(
        [right[item_id] for item_id in found], rel=1e-4, abs=1e-4
    )
    assert set(live.index.rows_of(IDS)) == {live.index.number_of(i) for i in IDS if i in known}
    assert live.spare_rows == SIZES.items + SIZES.spare - len(known)
    close(live)


def test_a_row_that_a_request_can_see_is_never_overwritten(live: LiveRows) -> None:
    bundle = live.model.bundle
    for round_ in range(12):
        seen = {row for row in range(1, SIZES.capacity) if live.model.filters.present_C[row]}
        before = bundle.item_outputs_CD.copy()
        encoder = live.reader.encoders["image"]
        vector = np.full(3, round_, np.float32)
        content = Content(image=key_of(vector.tobytes()))
        record = Record("item-1" if round_ % 2 else "new-1", 1, content)
        plan = live.plan([Change(record, {encoder.feature_key(content.image): vector})], 1)
        assert not seen & {put.row for put in plan.puts}
        left = live.apply(plan)
        written = {int(r) for r in np.flatnonzero((before != bundle.item_outputs_CD).any(1))}
        assert written == {put.row for put in plan.puts}
        live.show(plan, left)


def test_a_request_that_waited_speaks_of_the_items_that_it_meant(
    live: LiveRows, shop: Shop
) -> None:
    """Excluded before the item moved; in the history before it was removed."""
    excluded = live.index.rows_of(["item-1"])
    history = live.index.rows_of(["item-5", "item-2"])
    write(live, change("item-1", (1.0, 2.0, 3.0)), deletion("item-2"))
    write(live, change("new-1", (9.0, 9.0, 9.0)))
    write(live, change("new-2", (9.0, 9.0, 8.0)))
    [answer] = live.model.recommend([RowRequest(history, excluded, SIZES.items)])
    right = {i for i, known in bundle_items(shop).items() if known.available} | {"new-1", "new-2"}
    assert set(live.index.ids_of(answer.rows)) == right - {"item-1", "item-2"}


def test_the_bundle_on_disk_is_untouched(live: LiveRows) -> None:
    table: Path = live.model.bundle.folder / "tables/item_outputs.npy"
    before = table.read_bytes()
    write(live, change("item-1", (1.0, 2.0, 3.0)), change("new-1", (4.0, 5.0, 6.0)))
    assert table.read_bytes() == before


def test_categories_and_popularity_of_live_items_count(live: LiveRows) -> None:
    content = Content(categories=("cups", "unheard of"), brand="Acme")
    write(live, Change(Record("new-1", 1, content, popularity=1000), {}))
    index = live.model.filters.categories
    for name in ("cups", "unheard of", "brand: Acme"):
        wanted = index.filter_of([name], [])
        assert isinstance(wanted, CategoryFilter)
        assert all_of(live, ["item-5"], categories=wanted).keys() == {"new-1"}
    assert popular(live, 1) == {"new-1": 1000.0}
    assert live.modalities["new-1"] == ("category",)
    write(live, Change(Record("new-1", 1, Content(), popularity=1000), {}))
    wanted = index.filter_of(["cups"], [])
    assert not all_of(live, ["item-5"], categories=wanted)


def test_an_upsert_of_a_trained_item_keeps_its_id_and_its_popularity(
    live: LiveRows, shop: Shop
) -> None:
    write(live, change("item-1", (1.0, 2.0, 3.0), available=True))
    row = live.model.placement.row(live.index.rows_of(["item-1"])[0])
    right = expected_output(shop, trained=2, image=(1.0, 2.0, 3.0))
    assert live.model.bundle.item_outputs_CD[row] == pytest.approx(right, rel=1e-5)
    bought = float(shop.twin.popularity_N[1])
    assert popular(live, SIZES.items)["item-1"] == bought


def test_all_categories_of_the_model_count_for_its_scores(live: LiveRows, shop: Shop) -> None:
    content = Content(categories=("lamps",), brand="Acme")
    write(live, Change(Record("new-1", 1, content), {}))
    row = live.model.placement.row(live.index.rows_of(["new-1"])[0])
    right = expected_output(shop, categories=[CATEGORIES[1], CATEGORIES[2]])
    assert live.model.bundle.item_outputs_CD[row] == pytest.approx(right, rel=1e-5)


def test_when_the_spare_rows_are_used_up_that_is_said_and_nothing_is_taken(live: LiveRows) -> None:
    write(live, *(change(f"new-{n}", (1.0, 1.0, float(n))) for n in range(4)))
    with pytest.raises(CatalogueFull, match="2 rows are needed, 1 of the 5 spare ones"):
        live.plan([change("new-8"), change("new-9")], 2)
    assert live.spare_rows == 1
    write(live, change("item-1"))  # a replacement gives back what it takes
    assert live.spare_rows == 1
    plan = live.plan([change("new-8")], 2)
    live.give_back(plan)
    assert live.spare_rows == 1
    write(live, deletion("item-2"), deletion("new-0"))
    assert live.spare_rows == 3


def test_until_when_the_data_go_is_known_only_where_their_times_are_seconds(shop: Shop) -> None:
    manifest = opened(shop).model.bundle.manifest
    said = manifest.provenance
    assert data_time_s(manifest) == 1_000_000_000.0
    for provenance in (
        {},
        said | {"newest": 1.7e12},  # milliseconds
        said | {"newest": None},
        said | {"exported": "some day"},
    ):
        vars(manifest)["provenance"] = provenance
        assert data_time_s(manifest) == float("-inf")


class Interrupting:
    """Computes at once, but for a change that comes just before."""

    def __init__(self, change: Callable[[], None]) -> None:
        self._change = change

    def submit(self, call: Callable[[], object], done: Done) -> None:
        self._change()
        done(call(), None)


def test_an_item_removed_while_its_explanation_waits_has_none(tmp_path: Path) -> None:
    shop = publish_live(tmp_path / "repository", SIZES, complete=with_explain)
    live = opened(shop)
    write(live, change("new-1", (1.0, 2.0, 3.0)), change("new-2", (3.0, 2.0, 1.0)))
    history, asked = ["item-5", "new-2"], ["new-1", "unknown", "item-3"]

    async def explained(item_ids: list[str], change: Callable[[], None]) -> ExplainReply:
        model, compute = live.model, Interrupting(change)
        asides = Asides(compute, clock=time.monotonic)
        batcher = Batcher(
            model.recommend, compute, BatchConfig(), clock=time.monotonic, times=BatchTimes()
        )
        facts = ModelFacts(model.version, model.max_length, True)
        service = Service(live.index, batcher, facts, Limits(), model.named)
        explains = ExplainItems(service, asides, model.explainer, clock=time.monotonic)
        return await explains.explain(ExplainQuery(history, item_ids, 0))

    whole = asyncio.run(explained(asked, lambda: None))
    assert {item.item_id for item in whole.items} == {"new-1", "item-3"}
    assert whole.unknown_item_ids == ["unknown"]
    found = asyncio.run(explained(asked, lambda: write(live, deletion("new-1"))))
    assert [item.item_id for item in found.items] == ["item-3"]
    assert found.unknown_item_ids == ["unknown", "new-1"]
    alone = asyncio.run(explained(["item-3"], lambda: write(live, deletion("item-3"))))
    assert (alone.items, alone.unknown_item_ids) == ([], ["item-3"])
    assert alone.attention == found.attention
    close(live)


def test_a_row_that_is_no_number_is_empty_and_spoils_no_other_answer(
    live: LiveRows, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """As an older store may hold it, or a bundle that computes in half precision makes it."""
    write(live, change("new-1", (3e38, 3e38, -3e38)), change("new-2", (1.0, 2.0, 3.0)))
    bundle, row = live.model.bundle, live.model.placement.row(live.index.rows_of(["new-1"])[0])
    assert not bundle.item_outputs_CD[row].any()
    assert not bundle.item_inputs_CW[row].any()
    found = all_of(live, ["item-5"])
    assert found["new-1"] == 0.0
    assert np.isfinite([*found.values()]).all()
    right = expected_output(shop, image=(1.0, 2.0, 3.0))
    row = live.model.placement.row(live.index.rows_of(["new-2"])[0])
    assert bundle.item_outputs_CD[row] == pytest.approx(right, rel=1e-5)
    assert "makes no numbers of the content of 1 items" in caplog.text
