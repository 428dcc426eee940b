"""The graphs with a part of every item taken away, and at every length that is padded to.

The item graph computes rows without a picture, a text or an id; the sequence graph ranks by these
rows. Both are compared with PyTorch's full forward pass, and decide nothing.
"""

# n items in use, L history length, C table rows

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mmsr.engine.items import bound_rows
from mmsr.engine.precision import FP32_TOLERANCE
from mmsr.engine.probe_answers import spread
from mmsr.engine.probe_set import Floats
from mmsr.engine.quantise import bind_outputs
from mmsr.engine.runners.base import Runner
from mmsr.export.parity import (
    ITEM_OUTPUTS,
    ITEMS_PER_CALL,
    Agreement,
    Difference,
    as_stored,
    bucket_agreement,
    item_batch,
    item_difference,
    length_buckets,
    torch_rows,
    without,
)
from mmsr.export.tables import answered
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun

USERS = 64  # whose items lose a part
BUCKET_USERS = 16

Histories = list[npt.NDArray[np.int32]]


@dataclass(frozen=True, kw_only=True)
class SubsetReport:
    """One subset of the content: errors of the rows, and of the ranking by them."""

    items: int
    item: dict[str, Difference]  # each output of item.onnx
    sequence: Agreement


def subsets_of(modalities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return what is taken away in each subset, by its name."""
    taken = {f"no {modality}": (modality,) for modality in modalities}
    return {**taken, "ids only": tuple(modalities), "content only": ("id",)}


def check_subsets(
    run: TrainedRun, item: Runner, sequence: Runner, histories: Histories, *, folded: bool
) -> dict[str, SubsetReport]:
    """Compare every subset on a catalogue of the items that some histories hold.

    The item graph's id table is bound; the sequence graph's tables are bound anew: whoever needs
    others binds them afterwards.
    """
    few = _spread(histories, USERS)
    few = [history[-run.model.config.max_length :] for history in few]
    rows_n = torch.from_numpy(np.unique(np.concatenate(few)).astype(np.int64))
    small = [(np.searchsorted(rows_n.numpy(), h) + 1).astype(np.int32) for h in few]
    return {
        name: _check_subset(run, (item, sequence), small, (rows_n, absent), folded=folded)
        for name, absent in subsets_of(run.info.recipe.model.modalities).items()
    }


def _check_subset(
    run: TrainedRun,
    runners: tuple[Runner, Runner],
    histories: Histories,
    taken: tuple[torch.Tensor, tuple[str, ...]],
    *,
    folded: bool,
) -> SubsetReport:
    item, sequence = runners
    rows_n, absent = taken
    wanted, found, errors = _rows_without(run, item, rows_n, absent, folded=folded)
    probe = answered(run.model, wanted, histories, np.ones(len(histories), np.int64))
    sequence.bind("item_inputs", found["item_inputs"])
    bind_outputs(sequence, found["item_outputs"])
    return SubsetReport(
        items=len(rows_n),
        item=errors,
        sequence=bucket_agreement(
            sequence,
            probe,
            wanted.outputs_nD.cpu().numpy(),
            int(probe.length_P.max()),
            FP32_TOLERANCE,
        ),
    )


def _rows_without(
    run: TrainedRun, item: Runner, rows_n: torch.Tensor, absent: tuple[str, ...], *, folded: bool
) -> tuple[ItemRows, dict[str, Floats], dict[str, Difference]]:
    """Return the small catalogue's rows by PyTorch and by item.onnx, padding first; the errors."""
    worst = dict.fromkeys(ITEM_OUTPUTS, Difference())
    wanted: list[tuple[torch.Tensor, ...]] = []
    found: list[Mapping[str, Floats]] = []
    for block_n in rows_n.split(ITEMS_PER_CALL):
        content = without(run.content.rows(block_n), absent)
        id_row_n = torch.zeros_like(block_n) if "id" in absent else block_n
        rows = torch_rows(run, id_row_n, content)
        batch = item_batch(id_row_n, content)
        errors = item_difference(item, as_stored(run, rows, folded=folded), batch)
        worst = {name: worst[name].worse(errors[name]) for name in ITEM_OUTPUTS}
        wanted.append((rows.inputs_nW, rows.outputs_nD))
        found.append(item.run(batch))
    inputs, outputs = (
        torch.cat([torch.zeros(1, parts[0].shape[1]), *(part.cpu() for part in parts)])
        for parts in zip(*wanted, strict=True)
    )
    spare = bound_rows(len(rows_n)) - 1 - len(rows_n)
    padded = {
        name: np.pad(np.concatenate([f[name] for f in found]), ((1, spare), (0, 0)))
        for name in ITEM_OUTPUTS
    }
    return ItemRows(inputs_nW=inputs, outputs_nD=outputs, sides={}), padded, worst


def check_buckets(
    run: TrainedRun, sequence: Runner, rows: ItemRows, histories: Histories
) -> dict[str, Agreement]:
    """Compare each length that histories are padded to, all users in one call.

    The sequence graph's tables are bound, that of outputs in catalogue order.
    """
    few = _spread(histories, BUCKET_USERS)
    outputs_ND = rows.outputs_nD.cpu().numpy()
    found = {}
    for width in length_buckets(run.model.config.max_length):
        probe = answered(run.model, rows, [h[-width:] for h in few], np.ones(len(few), np.int64))
        found[str(width)] = bucket_agreement(sequence, probe, outputs_ND, width, FP32_TOLERANCE)
    return found


def _spread(histories: Histories, most: int) -> Histories:
    lengths = np.array([len(history) for history in histories], np.int64)
    return [histories[place] for place in spread(lengths, most).tolist()]
