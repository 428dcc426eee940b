"""Writes a generated shop as a shop would hand it over: items, interactions, pictures."""

# N items, T interactions

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsr.training.dataset import ITEM_SCHEMA
from mmsr.training.prepare.progress import Progress
from mmsr.training.prepare.toy.behaviour import Histories, simulate
from mmsr.training.prepare.toy.factors import (
    IMAGE_STREAM,
    LEAVES_PER_TOP,
    Factors,
    draw_factors,
)
from mmsr.training.prepare.toy.pictures import draw
from mmsr.training.prepare.toy.settings import ToySettings
from mmsr.training.prepare.toy.vocabulary import DEPARTMENTS
from mmsr.training.prepare.toy.words import Writer

ITEMS_PER_BLOCK = 50_000
ROWS_PER_BLOCK = 1_000_000
PICTURES_PER_FOLDER = 1_000
POOL_FROM_PICTURES = 4_000  # fewer are drawn before a process has started
JPEG_QUALITY = 90

LOG_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("timestamp", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class PictureJob:
    """The pictures of one folder."""

    root: Path
    items: npt.NDArray[np.int64]  # numbers of the items
    looks: npt.NDArray[np.int32]  # one an item of `items`
    seed: int
    size: int


def write_shop(folder: Path, settings: ToySettings, progress: Progress) -> None:
    """Write items.parquet, interactions.parquet and images/ into `folder`."""
    folder.mkdir(parents=True)
    factors = draw_factors(settings.items, settings.seed)
    if settings.image_size is not None:
        jobs = picture_jobs(folder, factors, settings.seed, settings.image_size)
        for done, _ in enumerate(_in_pool(jobs, settings.items), start=1):
            progress("drawing pictures", done / len(jobs))
    _write_items(folder / "items.parquet", factors, settings, progress)
    _write_log(folder / "interactions.parquet", factors, settings, progress)


def item_name(item: int) -> str:
    """Return the shop's id of an item."""
    return f"i{item + 1}"


def image_path(item: int) -> str:
    """Return the path of an item's picture below the shop's folder."""
    return f"images/{item // PICTURES_PER_FOLDER:04d}/{item_name(item)}.jpg"


def picture_jobs(folder: Path, factors: Factors, seed: int, size: int) -> list[PictureJob]:
    """Return the work of drawing all pictures, in equal parts."""
    items = np.flatnonzero(factors.has_image_N)
    parts = np.split(items, np.flatnonzero(np.diff(items // PICTURES_PER_FOLDER)) + 1)
    return [
        PictureJob(root=folder, items=part, looks=factors.look_N[part], seed=seed, size=size)
        for part in parts
        if len(part)
    ]


def draw_pictures(job: PictureJob) -> None:
    """Draw and write the pictures of one folder."""
    (job.root / image_path(int(job.items[0]))).parent.mkdir(parents=True, exist_ok=True)
    for item, look in zip(job.items.tolist(), job.looks.tolist(), strict=True):
        rng = np.random.default_rng([job.seed, IMAGE_STREAM, item])
        picture = draw(look, rng, job.size)
        picture.save(job.root / image_path(item), quality=JPEG_QUALITY, subsampling=0)


def _in_pool(jobs: list[PictureJob], items: int) -> Iterator[None]:
    if items < POOL_FROM_PICTURES:
        yield from map(draw_pictures, jobs)
        return
    # spawn: the parent has threads (Arrow, BLAS), which a fork would leave in an unknown state
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield from pool.map(draw_pictures, jobs)


def _write_items(path: Path, factors: Factors, settings: ToySettings, progress: Progress) -> None:
    writer = Writer(settings.seed, len(factors))
    with pq.ParquetWriter(path, ITEM_SCHEMA) as file:
        for first in range(0, len(factors), ITEMS_PER_BLOCK):
            last = min(first + ITEMS_PER_BLOCK, len(factors))
            lines = [
                _item_line(item, factors, writer, settings.image_size is not None)
                for item in range(first, last)
            ]
            file.write_table(pa.Table.from_pylist(lines, ITEM_SCHEMA))
            progress("writing texts", last / len(factors))


def _item_line(item: int, factors: Factors, writer: Writer, pictures: bool) -> dict[str, Any]:
    line: dict[str, Any] = {"item_id": item_name(item), "categories": []}
    if factors.has_text_N[item]:
        text = writer.write(item, int(factors.subject_N[item]))
        line |= {"title": text.title, "description": text.description, "brand": text.brand}
    if factors.has_categories_N[item]:
        leaves = [int(factors.leaf_N[item]), int(factors.second_leaf_N[item])]
        line["categories"] = category_names(leaf for leaf in leaves if leaf >= 0)
    if pictures and factors.has_image_N[item]:
        line["image"] = image_path(item)
    return line


def category_names(leaves: Iterable[int]) -> list[str]:
    """Return departments and their leaves, each once."""
    names: dict[str, None] = {}
    for leaf in leaves:
        top, leaf_names = DEPARTMENTS[leaf // LEAVES_PER_TOP]
        names |= {top: None, leaf_names[leaf % LEAVES_PER_TOP]: None}
    return list(names)


def _write_log(path: Path, factors: Factors, settings: ToySettings, progress: Progress) -> None:
    parts = []
    for block in simulate(factors, settings):
        parts.append(_flatten(block))
        progress("simulating users", (block.first_user + len(block.length_B)) / settings.users)
    user_T, item_T, time_T = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(time_T, kind="stable")  # a log stands in the order in which things happen
    with pq.ParquetWriter(path, LOG_SCHEMA) as file:
        for first in range(0, len(order), ROWS_PER_BLOCK):
            chosen = order[first : first + ROWS_PER_BLOCK]
            columns = [
                _names("u", user_T[chosen]),
                _names("i", item_T[chosen]),
                pa.array(time_T[chosen]),
            ]
            file.write_table(pa.table(columns, schema=LOG_SCHEMA))
            progress("writing interactions", min(1.0, (first + ROWS_PER_BLOCK) / len(order)))


def _flatten(block: Histories) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    bought_BL = block.item_BL >= 0
    user_T = (block.first_user + np.nonzero(bought_BL)[0]).astype(np.int32)
    return user_T, block.item_BL[bought_BL], block.time_BL[bought_BL]


def _names(letter: str, number_T: npt.NDArray[np.int32]) -> Any:
    return pc.binary_join_element_wise(letter, pa.array(number_T + 1).cast(pa.string()), "")
