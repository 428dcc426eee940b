"""Images and texts on their way to features: the encoder processes of a live catalogue."""

import asyncio
from pathlib import Path

import pytest
from support.live import row_of, run, shown
from support.tiny_bundle import Shop, Sizes
from support.tiny_live import expected_output, picture, publish_live

from mmsr.engine.errors import InvalidRequest, Unavailable
from mmsr.v1 import catalogue_pb2 as pb

SIZES = Sizes(items=55, spare=8, probes=4)
GIVEN = [1.0, 2.0, 3.0]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_live(tmp_path_factory.mktemp("shop") / "repository", SIZES)


def featured(item_id: str) -> pb.Item:
    return pb.Item(item_id=item_id, image_features=GIVEN)


def close_to(row: object) -> object:
    return pytest.approx(row, rel=1e-5)


def test_images_and_texts_go_through_the_bundles_encoders(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            item = pb.Item(item_id="new-1", title="red", image=picture((200, 100, 0)))
            done = await it.upsert(live, item)
            assert done.encode_us > 0
            first = row_of(live, "new-1")
            image_alone = expected_output(shop, image=[200.0, 100.0, 0.0])
            assert abs(first - image_alone).max() > 0.01  # its text counts
            again = publish_live(tmp_path / "again", SIZES, seed=2)  # with the same encoders
            other = await it.attach(again.folder)
            assert row_of(other, "new-1") == close_to(first)
            # Another text encoder: the text is read again, the image's feature is not.
            changed = publish_live(tmp_path / "changed", SIZES, seed=2, encoder_seed=5)
            third = await it.attach(changed.folder)
            assert abs(row_of(third, "new-1") - first).max() > 0.01
            for model in (live, other, third):
                await it.detach(model)

    run(main())


def test_a_message_with_one_bad_image_changes_nothing(shop: Shop, tmp_path: Path) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            good = pb.Item(item_id="new-1", image=picture((1, 2, 3)))
            bad = pb.Item(item_id="new-2", image=picture((1, 2, 3))[:60])
            with pytest.raises(InvalidRequest, match=r"items\[1\]\.image: unreadable image"):
                await it.upsert(live, good, bad)
            assert it.catalogue.version == 0
            assert "new-1" not in live.index
            await it.detach(live)

    run(main())


def test_who_brings_features_does_not_wait_for_who_brings_images(
    shop: Shop, tmp_path: Path
) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            encoding = asyncio.create_task(
                it.upsert(live, *(pb.Item(item_id=f"t-{n}", title="red cup") for n in range(5)))
            )
            await it.upsert(live, featured("new-1"))  # the encoder's process has yet to start
            assert not encoding.done()
            await encoding
            await it.detach(live)

    run(main())


def test_a_catalogue_that_is_closed_ends_what_encodes_and_refuses_changes(
    shop: Shop, tmp_path: Path
) -> None:
    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(shop.folder)
            encoding = asyncio.create_task(
                it.upsert(live, *(pb.Item(item_id=f"t-{n}", title="red cup") for n in range(5)))
            )
            await it.upsert(live, featured("new-1"))
            await it.detach(live)
            await it.catalogue.close()
            with pytest.raises(Unavailable, match="stopping"):
                await encoding
            with pytest.raises(Unavailable, match="stopping"):
                await it.catalogue.delete(["item-1"])

    run(main())
