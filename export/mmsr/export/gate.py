"""The gate: nothing is published unless every graph agrees with PyTorch.

Measured by the runner that serves. The sequence graph is compared by `mmsr.engine.probe` (the same
comparison that a server makes before it serves); here are the item graph and the encoders.
"""

# n items of one call, F features

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.probe import ProbeReport
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.graphs import ItemGraph
from mmsr.export.onnx_file import ExportError
from mmsr.training.items import ItemContent, ItemRows
from mmsr.training.run import TrainedRun

# fp32 against fp32: the item graph is a few short sums, measured 5e-7 of the largest entry.
ITEM_TOLERANCE = 1e-5
# A frozen encoder is deep, its features are many: compared by direction. Measured 1 - 1e-7.
MIN_COSINE = 0.9999
ITEMS_PER_CALL = 4096
THREADS = 2


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What was measured of each graph; ends in the manifest as numbers."""

    sequence: ProbeReport
    item_items: int = 0  # table rows recomputed by item.onnx
    item_max_error: float = 0.0  # relative to max(1, largest entry)
    without: dict[str, float] = field(default_factory=dict)  # the same, content taken away
    image_items: int = 0
    image_min_cosine: float | None = None  # against the features that the model was trained on
    text_items: int = 0
    text_min_cosine: float | None = None

    def check(self) -> None:
        """Raise `ExportError` (or the probe's error) that says what differs and by how much."""
        self.sequence.check()
        errors = {"item.onnx": self.item_max_error}
        errors |= {f"item.onnx without {name}": error for name, error in self.without.items()}
        for what, error in errors.items():
            if not error <= ITEM_TOLERANCE:
                raise ExportError(
                    f"{what} differs from PyTorch by {error:.3g}, at most {ITEM_TOLERANCE:g} "
                    "allowed; nothing was published"
                )
        encoders = {"image": self.image_min_cosine, "text": self.text_min_cosine}
        for what, cosine in encoders.items():
            if cosine is not None and not cosine >= MIN_COSINE:
                raise ExportError(
                    f"{what}_encoder.onnx: cosine {cosine:.6f} to the feature that the model was "
                    f"trained on, at least {MIN_COSINE} expected; nothing was published"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return asdict(self)


def check_item_graph(
    run: TrainedRun, rows: ItemRows, path: Path, spec: GraphSpec
) -> tuple[float, dict[str, float]]:
    """Recompute every table row through item.onnx; then with each kind of content taken away.

    Returns the largest relative error of all rows, and that of each absence.
    """
    runner = open_onnx(path, spec, threads=THREADS)
    runner.bind("id_table", run.model.item_encoder.ids.weight.detach().cpu().numpy())
    errors = [
        largest_error(
            runner, (rows.inputs_nW[part], rows.outputs_nD[part]), _item_batch(run, part, None)
        )
        for part in _parts(run.info.items)
    ]
    sample = next(_parts(run.info.items))
    absences = [*run.info.recipe.model.modalities, "id"]
    without = {
        name: largest_error(
            runner, _reference_without(run, sample, name), _item_batch(run, sample, name)
        )
        for name in absences
    }
    runner.close()
    return float(np.max(errors)), without


def _parts(items: int) -> Iterator[torch.Tensor]:
    yield from torch.arange(1, items + 1).split(ITEMS_PER_CALL)


def largest_error(
    runner: Runner, wanted: tuple[torch.Tensor, torch.Tensor], batch: dict[str, npt.NDArray[Any]]
) -> float:
    """Compare item_inputs and item_outputs of one call, relative to max(1, largest entry).

    NaN if an entry is (which Python's own `max` would pass over), and infinite if a shape differs.
    """
    found = runner.run(batch)
    errors = []
    for name, tensor in zip(("item_inputs", "item_outputs"), wanted, strict=True):
        reference = tensor.detach().cpu().numpy()
        if found[name].shape != reference.shape:
            return math.inf
        scale = max(1.0, float(np.abs(reference).max()))
        errors.append(np.abs(found[name] - reference).max() / scale)
    return float(np.max(errors))


def _item_batch(
    run: TrainedRun, rows_n: torch.Tensor, absent: str | None
) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs of item.onnx for some rows, one kind of content taken away."""
    content = run.content.rows(rows_n)
    batch: dict[str, npt.NDArray[Any]] = {
        "id_row": np.zeros(len(rows_n), np.int64) if absent == "id" else rows_n.numpy()
    }
    for modality, features in content.features.items():
        present = content.present[modality].cpu().numpy()
        batch[modality] = features.cpu().numpy()
        batch[f"{modality}_present"] = np.zeros_like(present) if absent == modality else present
    return batch


@torch.no_grad()
def _reference_without(
    run: TrainedRun, rows_n: torch.Tensor, absent: str
) -> tuple[torch.Tensor, torch.Tensor]:
    content = run.content.rows(rows_n)
    if absent in content.present:
        gone = {**content.present, absent: torch.zeros_like(content.present[absent])}
        content = ItemContent(features=content.features, present=gone)
    graph = ItemGraph(run.model.item_encoder)
    flat = [x for m in content.features for x in (content.features[m], content.present[m])]
    id_table = run.model.item_encoder.ids.weight
    id_row = (torch.zeros_like(rows_n) if absent == "id" else rows_n).to(id_table.device)
    inputs, outputs = graph(id_row, id_table, *flat)
    return inputs, outputs


def min_cosine(found_nF: npt.NDArray[np.float32], wanted_nF: npt.NDArray[np.float32]) -> float:
    """Return the smallest cosine of corresponding rows; two zero rows agree."""
    norms = np.linalg.norm(found_nF, axis=1) * np.linalg.norm(wanted_nF, axis=1)
    products = (found_nF * wanted_nF).sum(axis=1)
    same_zero = (norms == 0) & (np.abs(found_nF - wanted_nF).max(axis=1) == 0)
    cosines = np.where(norms > 0, products / np.where(norms > 0, norms, 1.0), same_zero)
    return float(cosines.min())
