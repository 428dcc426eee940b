"""The arrays of a bundle: item tables, catalogue, probe set."""

# P probes, L history length, D width, N items, C capacity, K results

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.manifest import TableSizes
from mmsr.engine.items import bound_rows
from mmsr.engine.probe_set import ProbeSet
from mmsr.export.folding import RowFolder
from mmsr.training.batches import pad_histories
from mmsr.training.items import ItemRows
from mmsr.training.model import SequentialRecommender, catalogue_scores, last_states
from mmsr.training.run import TrainedRun

ProbeKind = Literal["real", "synthetic"]
PROBES = 1000
PROBE_K = 20
PROBE_SEED = 0
BATCH = 64  # probes of one pass
SPARE_SHARE = 0.1  # of the items: rows for items added while serving
MIN_SPARE = 256


def catalogue_of(run: TrainedRun) -> Catalogue:
    """Return the items with their titles, categories and how often each was bought."""
    table = run.dataset.item_table(["item_id", "title", "categories"])
    items = run.info.items
    counts = np.bincount(np.asarray(run.dataset.items_T), minlength=items + 1)[1:]
    return Catalogue(
        item_ids=table["item_id"].to_pylist(),
        titles=table["title"].to_pylist(),
        categories=[c or [] for c in table["categories"].to_pylist()],
        available=availability_of(run),
        popularity=counts.astype(np.int64),
    )


def availability_of(run: TrainedRun) -> npt.NDArray[np.bool_]:
    """Return which items may come back: [N]; all of them, until a server is told otherwise."""
    return np.ones(run.info.items, dtype=bool)


@torch.no_grad()
def item_rows(run: TrainedRun) -> ItemRows:
    """Return the table rows of the catalogue as the training model computes them.

    Items that training has not seen are unknown by id, as `open_run` leaves the model: their rows,
    and those of ids.npy, are what a new item gets while serving.
    """
    rows = run.model.table(run.content)
    # Of a model of ids alone these are the trained weights themselves.
    return replace(rows, inputs_nW=rows.inputs_nW.detach(), outputs_nD=rows.outputs_nD.detach())


def capacity_of(items: int) -> int:
    """Return the rows of the tables: padding, the items, and room for new ones."""
    return bound_rows(items + max(MIN_SPARE, int(items * SPARE_SHARE)))


def write_tables(run: TrainedRun, rows: ItemRows, folder: Path, *, folded: bool) -> TableSizes:
    """Write tables/*.npy; rows beyond the items are zero and never eligible.

    `folded`: item_inputs holds the rows that `folding` describes.
    """
    items = run.info.items
    capacity = capacity_of(items)
    (folder / "tables").mkdir()
    inputs = rows.inputs_nW
    if folded:
        with torch.no_grad():
            inputs = RowFolder(run.model)(inputs)
    _write(folder / "tables/item_inputs.npy", inputs, capacity)
    _write(folder / "tables/item_outputs.npy", rows.outputs_nD, capacity)
    _write(folder / "tables/ids.npy", run.model.item_encoder.ids.weight, items + 1)
    return TableSizes(
        items=items,
        capacity=capacity,
        input_width=inputs.shape[1],
        output_width=rows.outputs_nD.shape[1],
    )


def _write(path: Path, rows: torch.Tensor, capacity: int) -> None:
    values = rows.detach().cpu().float().numpy()
    table = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(capacity, values.shape[1])
    )
    table[: len(values)] = values
    table.flush()


def probe_set(run: TrainedRun, rows: ItemRows, kind: ProbeKind) -> ProbeSet:
    """Ask the training model; histories are real ones (held-out item next) or made up."""
    histories, target = _real(run) if kind == "real" else _synthetic(run)
    return answered(run.model, rows, histories, target)


@torch.no_grad()
def answered(
    model: SequentialRecommender,
    rows: ItemRows,
    histories: list[npt.NDArray[np.int32]],
    target_P: npt.NDArray[np.int64],
) -> ProbeSet:
    """Return what PyTorch answers to the histories, every row of `rows` but row 0 eligible.

    By its full forward pass: the graph holds the shorter one, which is to be compared with it.
    """
    history_PL, length_P = pad_histories(histories, model.config.max_length)
    device = rows.outputs_nD.device
    order_P = np.argsort(length_P, kind="stable")  # so that little is computed of the padding
    parts = []
    for begin in range(0, len(length_P), BATCH):  # the scores of all at once would be gigabytes
        some = order_P[begin : begin + BATCH]
        history_BL = torch.from_numpy(history_PL[some, : length_P[some].max()]).to(device)
        length_B = torch.from_numpy(length_P[some]).to(device)
        state_BD = last_states(model(rows.inputs_nW, history_BL), length_B)
        scores_BN = catalogue_scores(state_BD, rows.outputs_nD)
        scores_BN[:, 0] = -torch.inf
        best = scores_BN.topk(min(PROBE_K, scores_BN.shape[1] - 1), dim=1)
        parts.append((state_BD, best.indices, best.values))
    place_P = np.argsort(order_P)
    state_PD, rows_PK, scores_PK = (
        torch.cat(part).cpu().numpy()[place_P] for part in zip(*parts, strict=True)
    )
    return ProbeSet(
        history_PL=history_PL,
        length_P=length_P,
        target_P=target_P,
        state_PD=state_PD,
        top_rows_PK=rows_PK,
        top_scores_PK=scores_PK,
    )


def _real(run: TrainedRun) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int64]]:
    split = run.split
    users = split.evaluated()
    if len(users) > PROBES:
        chosen = np.random.default_rng(PROBE_SEED).choice(len(users), PROBES, replace=False)
        users = users[np.sort(chosen)]
    histories = [split.history(int(u), "test") for u in users]
    return histories, np.array([split.target(int(u), "test") for u in users], dtype=np.int64)


def _synthetic(run: TrainedRun) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int64]]:
    """Items drawn by popularity: for shops whose histories must not leave the training host."""
    random = np.random.default_rng(PROBE_SEED)
    counts = np.bincount(np.asarray(run.dataset.items_T), minlength=run.info.items + 1) + 1.0
    counts[0] = 0.0
    weights = counts / counts.sum()
    longest = run.info.recipe.model.max_length
    probes = min(PROBES, run.dataset.info.users)
    drawn = random.choice(len(weights), size=(probes, longest + 1), p=weights).astype(np.int32)
    lengths = random.integers(1, longest + 1, size=probes)
    histories = [row[:length] for row, length in zip(drawn, lengths, strict=True)]
    return histories, drawn[:, -1].astype(np.int64)
