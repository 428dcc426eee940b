"""What serving makes of an item's picture, text and categories is what training made of them."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.exported import small_run, stage
from support.live import row_of, run, shown

from mmsr.engine.catalogue.encoders import EncodeLimits, Encoders, encoders_of
from mmsr.engine.catalogue.projector import Projector
from mmsr.engine.catalogue.records import Content
from mmsr.engine.opened import open_bundle
from mmsr.training.features.image_encoder import restore_image_encoder
from mmsr.training.features.inference import encode
from mmsr.training.features.specs import ImageEncoderSpec
from mmsr.training.features.store import open_features
from mmsr.training.run import TrainedRun
from mmsr.v1 import catalogue_pb2 as pb

pytestmark = pytest.mark.slow
MIN_COSINE = 0.9999


def cosine(one: object, other: object) -> float:
    a, b = np.asarray(one, np.float64).ravel(), np.asarray(other, np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedRun, Path]:
    root = tmp_path_factory.mktemp("exported")
    found = small_run(root)
    return found, stage(found, root / "bundle", root / "repository")


def items_of(run: TrainedRun) -> list[pb.Item]:
    """Return the shop's items as its feed would send them."""
    fields = ["item_id", "title", "description", "brand", "categories", "image"]
    items = []
    for row in run.dataset.item_table(fields).to_pylist():
        image = row["image"] and (run.dataset.image_root / row["image"]).read_bytes()
        items.append(
            pb.Item(
                item_id=row["item_id"],
                title=row["title"] or "",
                description=row["description"] or "",
                brand=row["brand"] or "",
                categories=row["categories"],
                image=image or b"",
            )
        )
    return items


def test_an_item_written_as_it_was_trained_gets_the_row_that_it_had(
    trained: tuple[TrainedRun, Path], tmp_path: Path
) -> None:
    """Items with and without a picture, a description, categories."""
    items = [item for place, item in enumerate(items_of(trained[0])) if place % 3 == 0]
    assert any(not item.image for item in items)
    assert any(not item.categories for item in items)

    async def main() -> None:
        async with shown(tmp_path / "c.db") as it:
            live = await it.attach(trained[1])
            before = {item.item_id: row_of(live, item.item_id) for item in items}
            await it.upsert(live, *items)
            for item in items:
                assert cosine(row_of(live, item.item_id), before[item.item_id]) >= MIN_COSINE
                known = {"text": True, "image": bool(item.image), "category": item.categories}
                assert set(live.modalities[item.item_id]) == {m for m, has in known.items() if has}
            await it.detach(live)

    run(main())


def pictures() -> dict[str, bytes]:
    """Return pictures in the forms that cameras and designers leave behind."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    plain = Image.fromarray(pixels).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.linspace(0, 65535, 90 * 60).reshape(60, 90).astype(np.uint16))
    found = {}
    for name, image, kind, options in (
        ("jpeg", plain, "JPEG", {}),
        ("turned", plain, "JPEG", {"exif": exif}),
        ("cmyk", plain.convert("CMYK"), "JPEG", {}),
        ("transparent", plain.convert("RGBA"), "PNG", {}),
        ("16 bit", deep, "PNG", {}),
        ("webp", plain, "WEBP", {}),
        ("animated", plain, "GIF", {"save_all": True, "append_images": [plain.rotate(180)]}),
    ):
        file = BytesIO()
        image.save(file, kind, **options)
        found[name] = file.getvalue()
    return found


def test_features_of_all_kinds_of_pictures_are_those_of_training(
    trained: tuple[TrainedRun, Path],
) -> None:
    from mmsr.bundle.preprocess import load_pixels

    of_run, folder = trained
    spec = ImageEncoderSpec.from_json(of_run.info.features["image"])
    torch_encoder = restore_image_encoder(spec)
    bundle = open_bundle(folder)
    encoder = encoders_of(folder, bundle.manifest)["image"]
    encoders = Encoders(EncodeLimits())
    try:
        for name, file in pictures().items():
            right = encode(torch_encoder, load_pixels(file, spec.preprocess)[None].copy())[0]
            assert cosine(encoders.image(encoder, file), right) >= MIN_COSINE, name
    finally:
        encoders.close()


def test_features_of_texts_are_the_stored_ones(trained: tuple[TrainedRun, Path]) -> None:
    of_run, folder = trained
    bundle = open_bundle(folder)
    encoder = encoders_of(folder, bundle.manifest)["text"]
    stored = open_features(of_run.dataset).text
    assert stored is not None
    encoders, projector = Encoders(EncodeLimits()), Projector(bundle)
    try:
        for place, item in list(enumerate(items_of(of_run)))[::7]:
            content = Content(item.title, item.description, item.brand, tuple(item.categories))
            found = encoders.text(encoder, encoder.text_of(content, projector))
            assert cosine(found, stored.values_ND[place]) >= MIN_COSINE
    finally:
        encoders.close()
