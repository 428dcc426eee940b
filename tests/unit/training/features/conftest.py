"""Small prepared shops, made through the documented format on disk."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from support.small_bert import small_text_encoder

from mmsr.training.dataset import ITEM_SCHEMA, DataInfo, Dataset, open_dataset, save_info
from mmsr.training.features.config import FeaturesConfig

MakeShop = Callable[..., Dataset]
Draw = Callable[..., Path]


@pytest.fixture
def make_shop(tmp_path: Path) -> MakeShop:
    """Write prepared data into tmp_path/data; image paths are below tmp_path/pictures.

    An item is a dict of any of the columns but item_id.
    """

    def make(items: Sequence[dict[str, Any]], content_hash: str = "hash-1") -> Dataset:
        folder = tmp_path / "data"
        (folder / "sequences").mkdir(parents=True, exist_ok=True)
        rows = [{"item_id": f"item-{row}", **item} for row, item in enumerate(items, start=1)]
        pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
        pq.write_table(pa.table({"user_id": ["u"]}), folder / "users.parquet")
        np.save(folder / "sequences" / "items.npy", np.ones(1, np.int32))
        np.save(folder / "sequences" / "times.npy", np.zeros(1))
        np.save(folder / "sequences" / "offsets.npy", np.array([0, 1]))
        info = DataInfo(
            name="shop",
            items=len(items),
            users=1,
            interactions=1,
            image_root="../pictures",
            categories=[],
            content_hash=content_hash,
        )
        save_info(folder, info)
        return open_dataset(folder)

    return make


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Write a picture of coloured noise to tmp_path/pictures, in the format of its suffix."""

    def write(name: str, seed: int = 0) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        path = tmp_path / "pictures" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def small_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text encoder that is loaded at once; test_text_encoder tests MiniLM itself."""
    return small_text_encoder(tmp_path_factory.mktemp("small-bert"))


@pytest.fixture
def tiny(small_bert: Path) -> FeaturesConfig:
    """Encoders that answer at once."""
    return FeaturesConfig(
        image_encoder="squeezenet1_1",
        image_size=32,
        random_weights=True,
        text_encoder=str(small_bert),
        image_batch=4,
        workers=1,
        max_tokens=16,
    )
