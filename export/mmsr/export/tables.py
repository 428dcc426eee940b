"""The arrays of a bundle: item tables, catalogue, probe set."""

# P probes, L history length, D width, N items, C capacity, K results

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from mmsr.bundle.catalogue import Catalogue
from mmsr.bundle.manifest import TableSizes
from mmsr.engine.opened import ITEM_INPUTS, ITEM_OUTPUTS
from mmsr.engine.probe_set import ProbeSet
from mmsr.export.folding import RowLayout, plain_columns
from mmsr.export.forms import capacity_of
from mmsr.export.parity import ITEMS_PER_CALL, as_stored, item_blocks, torch_rows
from mmsr.export.row_file import RowFile
from mmsr.training.batches import pad_histories
from mmsr.training.items import ItemRows
from mmsr.training.model import SequentialRecommender, catalogue_scores, last_states
from mmsr.training.run import TrainedRun

ProbeKind = Literal["real", "synthetic"]
IDS = "tables/ids.npy"
StoredRows = tuple[torch.Tensor, torch.Tensor]  # [C, W] and [C, D]
PROBES = 1000
PROBE_K = 20
PROBE_SEED = 0
BATCH = 16  # probes of one pass
MOST_SCORES = 1 << 25  # of one pass: 128 MiB


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


def item_rows(run: TrainedRun) -> ItemRows:
    """Return the table rows of the catalogue as the training model computes them.

    Items that training has not seen are unknown by id, as `open_run` leaves the model: their rows,
    and those of ids.npy, are what a new item gets while serving. In blocks: nothing of the
    catalogue's size is taken beside the rows.
    """
    items, config = run.info.items, run.model.config
    device = run.model.item_encoder.ids.weight.device
    inputs_NW, outputs_ND = (
        torch.empty(items + 1, columns, device=device)
        for columns in (plain_columns(config), config.width)
    )
    for rows_n in item_blocks(items, begin=0):
        rows = torch_rows(run, rows_n, run.content.rows(rows_n))
        inputs_NW[rows_n], outputs_ND[rows_n] = rows.inputs_nW, rows.outputs_nD
    return ItemRows(inputs_nW=inputs_NW, outputs_nD=outputs_ND, sides={})


def write_tables(run: TrainedRun, folder: Path, *, folded: bool) -> TableSizes:
    """Write tables/*.npy; rows beyond the items are zero and never eligible.

    `folded`: item_inputs holds the rows that `folding` describes. In blocks: the memory does not
    grow with the catalogue.
    """
    items, config = run.info.items, run.model.config
    sizes = TableSizes(
        items=items,
        capacity=capacity_of(items),
        input_width=RowLayout(config).columns if folded else plain_columns(config),
        output_width=config.width,
    )
    (folder / "tables").mkdir()
    with (
        RowFile(folder / ITEM_INPUTS, sizes.capacity, sizes.input_width) as inputs,
        RowFile(folder / ITEM_OUTPUTS, sizes.capacity, sizes.output_width) as outputs,
        RowFile(folder / IDS, items + 1, config.width) as ids,
    ):
        for rows_n in item_blocks(items, begin=0):
            rows = torch_rows(run, rows_n, run.content.rows(rows_n))
            for file, tensor in zip(
                (inputs, outputs), as_stored(run, rows, folded=folded).values(), strict=True
            ):
                file.append(tensor)
        for block_nD in run.model.item_encoder.ids.weight.split(ITEMS_PER_CALL):
            ids.append(block_nD)
    return sizes


def plain_rows(run: TrainedRun, stored: StoredRows, *, folded: bool) -> ItemRows:
    """Return the rows 0..N as PyTorch reads them: the `stored` ones, where these are plain.

    `stored` are rows of item_inputs and item_outputs that are known to be right, 0..N at least;
    they are read in place, so that of mapped files no second copy is taken.
    """
    if folded:
        return item_rows(run)
    inputs_nW, outputs_nD = (table[: run.info.items + 1] for table in stored)
    return ItemRows(inputs_nW=inputs_nW, outputs_nD=outputs_nD, sides={})


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
    step = max(1, min(BATCH, MOST_SCORES // len(rows.outputs_nD)))
    for begin in range(0, len(length_P), step):
        some = order_P[begin : begin + step]
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
