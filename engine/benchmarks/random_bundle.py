"""A bundle with the real sequence graph, random weights and tables: speed depends on neither.

Made in a minute where a training of that size would take days; its probe set is empty, so it can
be opened and not be proven.
"""

# N items, C table rows, W input columns, D width

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.manifest import Manifest, TableSizes, describe_files
from mmsr.export.convert import convert_sequence
from mmsr.export.folding import plain_columns
from mmsr.export.forms import ScoringForm, capacity_of, decide_form
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender

FEATURES = {"image": 512, "text": 384, "category": 40}
ROWS = 65_536  # made at a time


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is measured: all five sources, plain rows."""

    items: int = 1_000_000
    width: int = 64
    blocks: int = 2
    length: int = 50
    unavailable: float = 0.05  # share of the items
    seed: int = 0


def write_bundle(
    folder: Path, shape: Shape, shares: Sequence[float], *, chunked: bool | None = None
) -> SequentialRecommender:
    """Write it and return its model.

    Each of `shares` is a category that so many of the items have, chosen by chance. `chunked`: the
    form of the scoring; None: as the export would decide.
    """
    torch.manual_seed(shape.seed)
    config = ModelConfig(
        width=shape.width,
        side_width=shape.width,
        blocks=shape.blocks,
        feedforward_width=2 * shape.width,
        max_length=shape.length,
    )
    model = SequentialRecommender(config, 1, FEATURES).eval()
    sizes = TableSizes(
        items=shape.items,
        capacity=capacity_of(shape.items),
        input_width=plain_columns(config),
        output_width=shape.width,
    )
    (folder / "tables").mkdir(parents=True)
    form = decide_form(sizes.capacity)
    if chunked is not None:
        form = ScoringForm(chunked=chunked, why="asked for")
    spec = convert_sequence(model, folder / "sequence.onnx", folded=False, chunked=form.chunked)
    for name, columns in (("item_inputs", sizes.input_width), ("item_outputs", shape.width)):
        _write(folder / f"tables/{name}.npy", sizes, columns, shape.seed)
    (folder / "probe.npz").write_bytes(b"")
    _catalogue(shape, shares).save(folder)
    Manifest(
        max_length=shape.length,
        exclude_seen=True,
        tables=sizes,
        graphs={"sequence": spec},
        model={"sources": list(config.sources)},
        features={},
        files=describe_files(folder),
        provenance={"shape": asdict(shape), "scoring": asdict(form)},
    ).save(folder)
    return model


def _write(path: Path, sizes: TableSizes, columns: int, seed: int) -> None:
    random = np.random.default_rng([seed, columns])
    table_CW = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(sizes.capacity, columns)
    )
    for begin in range(1, sizes.items + 1, ROWS):
        rows = min(ROWS, sizes.items + 1 - begin)
        table_CW[begin : begin + rows] = random.standard_normal((rows, columns), np.float32)
    table_CW.flush()


def _catalogue(shape: Shape, shares: Sequence[float]) -> Catalogue:
    random = np.random.default_rng([shape.seed, shape.items])
    has_NS: npt.NDArray[np.bool_] = random.random((shape.items, len(shares))) < np.array(shares)
    names = [f"{share:g}" for share in shares]
    return Catalogue(
        item_ids=[f"item-{n}" for n in range(shape.items)],
        titles=[None] * shape.items,
        categories=[
            [name for name, has in zip(names, line, strict=True) if has] for line in has_NS.tolist()
        ],
        available=random.random(shape.items) >= shape.unavailable,
        popularity=random.integers(0, 1000, shape.items),
    )
