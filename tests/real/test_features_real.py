"""The real VGG-16 on real posters: the features tell pictures apart and know them again."""

from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.real_data import RealData

from mmsr.training.dataset import ITEM_SCHEMA, DataInfo, Dataset, open_dataset, save_info
from mmsr.training.features.config import FeaturesConfig
from mmsr.training.features.extract import extract_features
from mmsr.training.features.store import open_features

POSTERS = 20
AGAIN = 4  # of them a second time: smaller and compressed harder, as another shop would


def prepare(folder: Path, pictures: Path, names: list[str]) -> Dataset:
    """Write prepared data of these pictures and no texts."""
    (folder / "sequences").mkdir(parents=True)
    rows = [{"item_id": name, "image": name} for name in names]
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
    pq.write_table(pa.table({"user_id": ["u"]}), folder / "users.parquet")
    np.save(folder / "sequences" / "items.npy", np.ones(1, np.int32))
    np.save(folder / "sequences" / "times.npy", np.zeros(1))
    np.save(folder / "sequences" / "offsets.npy", np.array([0, 1]))
    info = DataInfo(
        name="posters",
        items=len(names),
        users=1,
        interactions=1,
        image_root=str(pictures),
        categories=[],
        content_hash="posters",
    )
    save_info(folder, info)
    return open_dataset(folder)


def shrink(data: bytes) -> bytes:
    with Image.open(BytesIO(data)) as poster:
        small = poster.convert("RGB").resize((poster.width * 2 // 3, poster.height * 2 // 3))
    file = BytesIO()
    small.save(file, "JPEG", quality=60)
    return file.getvalue()


@pytest.fixture
def pictures(real_data: RealData, tmp_path: Path) -> Path:
    """Twenty posters, a copy of the first, and four of them shrunk."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, path in enumerate(sorted((real_data.ml1m / "images").iterdir())[:POSTERS]):
        data = path.read_bytes()
        (folder / f"{number:02d}.jpg").write_bytes(data)
        if number == 0:
            (folder / "copy.jpg").write_bytes(data)
        if number < AGAIN:
            (folder / f"shrunk-{number:02d}.jpg").write_bytes(shrink(data))
    return folder


def test_posters_are_told_apart_and_known_again(
    real_data: RealData, pictures: Path, tmp_path: Path
) -> None:
    names = sorted(path.name for path in pictures.iterdir())
    dataset = prepare(tmp_path / "data", pictures, names)
    config = FeaturesConfig(image_weights=str(real_data.vgg_weights), workers=1)
    report = extract_features(dataset, config)
    assert (report.image.present, report.image.encoded) == (POSTERS + 1 + AGAIN, POSTERS + AGAIN)
    found = open_features(dataset).image
    assert found is not None
    assert found.dim == 512
    values_ND = np.array(found.values_ND)
    assert np.isfinite(values_ND).all()
    row = {name: number for number, name in enumerate(names)}
    assert (values_ND[row["copy.jpg"]] == values_ND[row["00.jpg"]]).all()
    posters_PD = values_ND[:POSTERS]  # the names with digits come first
    centred_PD = posters_PD - posters_PD.mean(0)
    cosine_PP = unit(centred_PD) @ unit(centred_PD).T
    assert cosine_PP[~np.eye(POSTERS, dtype=np.bool_)].max() < 0.95
    for number in range(AGAIN):
        again_D = values_ND[row[f"shrunk-{number:02d}.jpg"]] - posters_PD.mean(0)
        similarity_P = unit(centred_PD) @ unit(again_D)
        assert similarity_P.argmax() == number
        assert similarity_P[number] > 0.9
    assert extract_features(dataset, config).image.encoded == 0


def unit(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale the last axis to length one."""
    return np.asarray(values / np.linalg.norm(values, axis=-1, keepdims=True), np.float32)
