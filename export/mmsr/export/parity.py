"""Measures how far an exported graph is from PyTorch: errors, cosines, padding and sizes of call.

Decides nothing: what is allowed stands in `gate`.
"""

# n items of one call, F features, P probes, L history length, K results, C table rows

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from mmsr.engine.probe_answers import ask, count_right, distance, outside
from mmsr.engine.probe_set import Floats, ProbeSet, Rows
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.export.folding import RowFolder
from mmsr.training.items import ItemContent, ItemRows, ModalityEncoder
from mmsr.training.run import TrainedRun

THREADS = 2
ITEMS_PER_CALL = 1024  # folded rows of 4096 took 100 MiB more, and no less time
MADE_UP = 256  # items that are drawn
SEED = 0
ITEM_OUTPUTS = ("item_inputs", "item_outputs")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far some outputs are from PyTorch's."""

    max_error: float = 0.0  # relative to max(1, largest entry); infinite where a shape differs
    max_abs_error: float = 0.0

    def worse(self, other: "Difference") -> "Difference":
        """Return the larger of each error; NaN is the largest."""
        return Difference(
            max_error=float(np.max([self.max_error, other.max_error])),
            max_abs_error=float(np.max([self.max_abs_error, other.max_abs_error])),
        )


def difference(found: AnyArray, wanted: AnyArray) -> Difference:
    """Compare two arrays; NaN if an entry is (which Python's own `max` would pass over)."""
    if found.shape != wanted.shape:
        return Difference(max_error=math.inf, max_abs_error=math.inf)
    if found.size == 0:
        return Difference()
    largest = float(np.abs(found.astype(np.float32) - wanted).max())
    scale = max(1.0, float(np.abs(wanted).max()))
    return Difference(max_error=largest / scale, max_abs_error=largest)


def item_blocks(items: int, begin: int = 1) -> Iterator[torch.Tensor]:
    """Yield the rows `begin`..`items`, some thousands at a time."""
    yield from torch.arange(begin, items + 1).split(ITEMS_PER_CALL)


def without(content: ItemContent, absent: Sequence[str]) -> ItemContent:
    """Return the content as if no item had the modalities that are named."""
    gone = {m: torch.zeros_like(p) for m, p in content.present.items() if m in absent}
    return ItemContent(features=content.features, present={**content.present, **gone})


def item_batch(id_row_n: torch.Tensor, content: ItemContent) -> dict[str, AnyArray]:
    """Return the inputs of item.onnx but the id table."""
    batch: dict[str, AnyArray] = {"id_row": id_row_n.cpu().numpy()}
    for modality, features in content.features.items():
        batch[modality] = features.cpu().numpy()
        batch[f"{modality}_present"] = content.present[modality].cpu().numpy()
    return batch


@torch.no_grad()
def torch_rows(run: TrainedRun, id_row_n: torch.Tensor, content: ItemContent) -> ItemRows:
    """Return the plain rows that PyTorch gives for the ids and content of some items."""
    encoder = run.model.item_encoder
    rows: ItemRows = encoder(encoder.ids(id_row_n.to(encoder.ids.weight.device)), content)
    return rows


@torch.no_grad()
def as_stored(run: TrainedRun, rows: ItemRows, *, folded: bool) -> dict[str, torch.Tensor]:
    """Return the rows as item.onnx gives them and the tables hold them."""
    inputs = RowFolder(run.model)(rows.inputs_nW) if folded else rows.inputs_nW
    return dict(zip(ITEM_OUTPUTS, (inputs, rows.outputs_nD), strict=True))


def item_difference(
    runner: Runner, wanted: Mapping[str, torch.Tensor], batch: Mapping[str, AnyArray]
) -> dict[str, Difference]:
    """Compare both outputs of one call of item.onnx with PyTorch's, as `as_stored` gives them."""
    found = runner.run(batch)
    return {
        name: difference(found[name], tensor.detach().cpu().numpy())
        for name, tensor in wanted.items()
    }


def item_parity(run: TrainedRun, runner: Runner, *, folded: bool) -> dict[str, Difference]:
    """Recompute every item through item.onnx, whose id table is bound; return each output's worst.

    In blocks: the memory does not grow with the catalogue.
    """
    worst = dict.fromkeys(ITEM_OUTPUTS, Difference())
    for rows_n in item_blocks(run.info.items):
        content = run.content.rows(rows_n)
        wanted = as_stored(run, torch_rows(run, rows_n, content), folded=folded)
        found = item_difference(runner, wanted, item_batch(rows_n, content))
        worst = {name: worst[name].worse(found[name]) for name in ITEM_OUTPUTS}
    return worst


def made_up_parity(run: TrainedRun, runner: Runner, *, folded: bool) -> dict[str, Difference]:
    """Compare item.onnx, whose id table is bound, on items that are not in the catalogue.

    A feature that no item of today has may be that of a new one: the graph is for those.
    """
    content = made_up_content(run)
    rows_n = torch.zeros(MADE_UP, dtype=torch.int64)
    wanted = as_stored(run, torch_rows(run, rows_n, content), folded=folded)
    return item_difference(runner, wanted, item_batch(rows_n, content))


def made_up_content(run: TrainedRun) -> ItemContent:
    """Draw content with the mean and deviation that training saw, each modality half the time."""
    random = torch.Generator().manual_seed(SEED)
    features, present = {}, {}
    for modality, encoder in run.model.item_encoder.modalities.items():
        assert isinstance(encoder, ModalityEncoder)
        shape = (MADE_UP, encoder.project.in_features)
        if encoder.standardise:
            deviation_F = torch.ones(shape[1]) if encoder.whiten else encoder.std_F.cpu()
            drawn_nF = torch.randn(shape, generator=random)
            features[modality] = encoder.mean_F.cpu() + deviation_F * drawn_nF
        else:
            features[modality] = (torch.rand(shape, generator=random) < 0.5).float()
        present[modality] = torch.rand(MADE_UP, generator=random) < 0.5
    return ItemContent(features=features, present=present)


def id_table(run: TrainedRun) -> npt.NDArray[np.float32]:
    """Return the run's id table [N + 1, D]."""
    table_ND: npt.NDArray[np.float32] = run.model.item_encoder.ids.weight.detach().cpu().numpy()
    return table_ND


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near a graph's best rows are to PyTorch's, for one form of call."""

    users: int
    overlap: float  # share of returned items that are right, ties within the tolerance allowed
    max_error: float  # of a score, relative to max(1, largest score)


def pooled(found: Sequence[Agreement]) -> Agreement:
    """Return some forms of call as one: the mean overlap of all users, the worst error."""
    users = sum(one.users for one in found)
    return Agreement(
        users=users,
        overlap=sum(one.overlap * one.users for one in found) / users,
        max_error=float(np.max([one.max_error for one in found])),
    )


def length_buckets(max_length: int) -> list[int]:
    """Return the lengths that histories are padded to: powers of two, and the longest."""
    powers = [1 << n for n in range(max_length.bit_length())]
    return [*(n for n in powers if n < max_length), max_length]


def bucket_agreement(
    runner: Runner, probe: ProbeSet, outputs_ND: Floats, width: int, tolerance: float
) -> Agreement:
    """Ask all users of `probe` in one call, their histories padded to `width`.

    The tables are bound, that of outputs in catalogue order. The probe's answers are PyTorch's to
    the same histories.
    """
    k, items = probe.top_rows_PK.shape[1], len(outputs_ND) - 1
    padded_PL = np.zeros((len(probe.length_P), width), np.int64)
    kept = min(width, probe.history_PL.shape[1])
    padded_PL[:, :kept] = probe.history_PL[:, :kept]
    rows_PK, scores_PK, _ = ask(
        runner,
        {
            "history": padded_PL,
            "length": probe.length_P,
            "excluded": outside(len(padded_PL), items),
            "k": np.array([k], np.int64),
        },
    )
    return agreement(probe, rows_PK, scores_PK, outputs_ND, tolerance)


def agreement(
    probe: ProbeSet, rows_PK: Rows, scores_PK: Floats, outputs_CD: Floats, tolerance: float
) -> Agreement:
    """Compare returned rows and scores with PyTorch's states and best scores."""
    known_PK = (rows_PK >= 1) & (rows_PK < len(outputs_CD))
    reference_PK = np.einsum("pd,pkd->pk", probe.state_PD, outputs_CD[rows_PK * known_PK])
    scale_P = np.maximum(1.0, np.abs(probe.top_scores_PK).max(axis=1))
    least_P = probe.top_scores_PK[:, -1] - tolerance * scale_P
    right_P = count_right(rows_PK, known_PK & (reference_PK >= least_P[:, None]))
    error_P = distance(scores_PK, reference_PK) / scale_P
    return Agreement(
        users=len(rows_PK),
        overlap=float(right_P.sum() / rows_PK.size),
        max_error=float(error_P.max()),
    )
