"""A small shop as prepared data with features, written in the documented formats.

Users walk round a ring of items, so that a model can learn something in a second.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmsr.training.dataset import ITEM_SCHEMA, DataInfo, save_info

ITEMS = 40
USERS = 60
CATEGORIES = ["cups", "lamps", "plants"]


def write_shop(folder: Path, seed: int = 0, items: int = ITEMS) -> Path:
    """Write data.json, that many items, users and sequences; return `folder`."""
    random = np.random.default_rng(seed)
    (folder / "sequences").mkdir(parents=True)
    (folder / "images").mkdir()
    lengths = random.integers(2, 15, USERS)
    starts = random.integers(0, items, USERS)
    walks = [(start + np.arange(n)) % items + 1 for start, n in zip(starts, lengths, strict=True)]
    bought = np.concatenate(walks).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    np.save(folder / "sequences/items.npy", bought)
    np.save(folder / "sequences/times.npy", np.arange(len(bought), dtype=np.float64))
    np.save(folder / "sequences/offsets.npy", offsets)
    pq.write_table(pa.table({"user_id": [f"u{u}" for u in range(USERS)]}), folder / "users.parquet")
    rows = [_item(folder, index, random) for index in range(items)]
    pq.write_table(pa.Table.from_pylist(rows, schema=ITEM_SCHEMA), folder / "items.parquet")
    info = DataInfo(
        name="small shop",
        items=items,
        users=USERS,
        interactions=len(bought),
        image_root="images",
        categories=CATEGORIES,
        content_hash=f"small-shop-{seed}",
    )
    save_info(folder, info)
    return folder


def _item(folder: Path, index: int, random: np.random.Generator) -> dict[str, Any]:
    image = None if index % 9 == 0 else f"{index}.png"
    if image is not None:
        pixels = random.integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / image)
    return {
        "item_id": f"item-{index}",
        "title": f"Thing number {index}",
        "description": None if index % 5 else "A thing with a story",
        "brand": "Acme",
        "categories": [] if index % 7 == 0 else [CATEGORIES[index % 3]],
        "image": image,
    }


def shop_recipe(folder: Path, **fit: Any) -> Path:
    """Write a recipe that trains the shop in about a second; return its path."""
    tables: dict[str, dict[str, Any]] = {
        "model": {"width": 16, "side_width": 8, "feedforward_width": 16, "max_length": 8},
        "loss": {"category_weight": 0.5},
        "fit": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "patience": 3, **fit},
        "features": {
            "image_encoder": "squeezenet1_1",
            "image_size": 32,
            "random_weights": True,
            "max_tokens": 16,
            "workers": 1,
        },
    }
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / "recipe.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
