"""The gate: nothing is published unless every graph and every stored number agrees with PyTorch.

Measured by the runner that serves, on a staged folder as it will be published. What is measured
stands in `parity`, `subsets`, `held_out`, `encoders` and `stored`; here is what is allowed.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmsr.bundle.manifest import Manifest
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.probe import FP32_TOLERANCE, ProbeReport, probe_runner, prove
from mmsr.engine.probe_set import ProbeSet, load_probe
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import LOAD_ERRORS, open_onnx
from mmsr.export.encoders import EncoderCheck, check_image, check_text
from mmsr.export.folding import is_folded
from mmsr.export.held_out import (
    Comparison,
    Gains,
    bundle_gains,
    compare,
    held_out,
    torch_gains,
)
from mmsr.export.onnx_file import ExportError
from mmsr.export.parity import (
    THREADS,
    Agreement,
    Difference,
    difference,
    id_table,
    item_parity,
    made_up_parity,
)
from mmsr.export.stored import StoredReport, check_stored, stored_tensors
from mmsr.export.subsets import SubsetReport, check_buckets, check_subsets
from mmsr.export.tables import ProbeKind, item_rows, probe_set
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun

# fp32 against fp32: the item side is a few short sums, measured 5e-7 of the largest entry.
ITEM_TOLERANCE = 1e-5
# The states that the probe set stores, computed again: the same sums, in other blocks.
PROBE_TOLERANCE = 1e-5
# A frozen encoder is deep, its features are many: compared by direction. Measured 1 - 1e-7.
MIN_COSINE = 0.9999
MAX_DISTANCE = math.sqrt(2 * (1 - MIN_COSINE))  # of two rows of one length and that cosine
# Share of NDCG@10 that may be lost; the project's definition for halves and int8. In fp32 only
# ties are broken otherwise: measured 0.
MAX_NDCG_LOSS = {"fp32": 0.001, "fp16": 0.005, "bf16": 0.005, "int8": 0.01}
# Share of right items among the best 20; the project's definition.
MIN_OVERLAP = {"fp32": 1.0, "fp16": 0.995, "bf16": 0.995, "int8": 0.99}
PUBLISHED_NOTHING = "nothing was published"


class ParityError(ExportError):
    """A bundle does not answer as PyTorch does, or does not hold what the checkpoint holds."""

    exit_code = 4


def require_none(problems: Sequence[str]) -> None:
    """Raise `ParityError` with the first few problems, if there are any."""
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ParityError(f"{'; '.join(problems[:3])}{more}; {PUBLISHED_NOTHING}")


def problems_of_files(stored: StoredReport) -> Iterator[str]:
    """Say what a bundle's files hold that the checkpoint does not."""
    for name, found in stored.tables.items():
        if not found.max_error <= ITEM_TOLERANCE:
            yield (
                f"{name} differs from the checkpoint by {found.max_error:.3g}, at most "
                f"{ITEM_TOLERANCE:g} allowed"
            )
    if stored.spare_rows:
        yield f"{stored.spare_rows} spare rows of the tables are not zero"
    if stored.wrong_items:
        yield (
            f"catalogue.parquet: {stored.wrong_items} of {stored.items} rows are not the items "
            "that the checkpoint was trained with"
        )
    for name in stored.wrong_graphs:
        yield f"{name} does not hold the numbers of a fresh conversion"
    for name in stored.wrong_files:
        yield f"{name} is not the one that the model was trained with"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What was measured of each graph; ends in the manifest as numbers."""

    precision: str = "fp32"  # of the sequence graph
    sequence: ProbeReport  # on real histories
    probe_error: float = 0.0  # of the stored answers, against PyTorch's computed anew
    held_out: Comparison  # NDCG@10 of all held-out users, against PyTorch
    buckets: dict[str, Agreement] = field(default_factory=dict)  # length that is padded to
    item_items: int = 0  # table rows recomputed by item.onnx
    item: dict[str, Difference] = field(default_factory=dict)  # each output of item.onnx
    made_up: dict[str, Difference] = field(default_factory=dict)  # the same on drawn content
    subsets: dict[str, SubsetReport] = field(default_factory=dict)  # a part of every item missing
    stored: StoredReport = field(default_factory=StoredReport)
    image_items: int = 0
    image_min_cosine: float | None = None  # against the features that the model was trained on
    image_max_distance: float = 0.0
    image_max_abs_error: float = 0.0
    text_items: int = 0
    text_min_cosine: float | None = None
    text_max_distance: float = 0.0
    text_max_abs_error: float = 0.0

    def check(self) -> None:
        """Raise `ParityError` that says what differs and by how much."""
        require_none(
            [
                *problems_of_files(self.stored),
                *self._of_items(),
                *self._of_ranking(),
                *self._of_encoders(),
            ]
        )

    def _of_items(self) -> Iterator[str]:
        errors = {f"item.onnx, {name}": found for name, found in self.item.items()}
        errors |= {f"item.onnx, made-up items, {name}": e for name, e in self.made_up.items()}
        for subset, report in self.subsets.items():
            errors |= {f"item.onnx, {subset}, {name}": e for name, e in report.item.items()}
        for what, found in errors.items():
            if not found.max_error <= ITEM_TOLERANCE:
                yield (
                    f"{what} differs from PyTorch by {found.max_error:.3g}, at most "
                    f"{ITEM_TOLERANCE:g} allowed"
                )

    def _of_ranking(self) -> Iterator[str]:
        least = MIN_OVERLAP[self.precision]
        score_error = FP32_TOLERANCE if self.precision == "fp32" else math.inf
        try:
            if self.precision == "fp32":
                self.sequence.check()
        except ProbeFailed as error:
            yield str(error).partition("; export the model again")[0]
        forms = {f"padded to {width}": found for width, found in self.buckets.items()}
        forms |= {name: report.sequence for name, report in self.subsets.items()}
        forms["real histories"] = Agreement(
            users=self.sequence.users, overlap=self.sequence.overlap, max_error=0.0
        )
        for what, found in forms.items():
            if not (found.overlap >= least and found.max_error <= score_error):
                yield (
                    f"sequence.onnx, {what}: overlap {found.overlap:.4f}, at least {least:g} "
                    f"expected, score error {found.max_error:.3g}"
                )
        if not self.probe_error <= PROBE_TOLERANCE:
            yield f"probe.npz differs from PyTorch's answers by {self.probe_error:.3g}"
        if self.held_out.is_lower(MAX_NDCG_LOSS[self.precision]):
            yield (
                f"NDCG@10 {self.held_out.ndcg:.5f}, PyTorch's {self.held_out.reference:.5f} on "
                f"{self.held_out.users} users"
            )

    def _of_encoders(self) -> Iterator[str]:
        encoders = {
            "image": (self.image_min_cosine, self.image_max_distance),
            "text": (self.text_min_cosine, self.text_max_distance),
        }
        for what, (cosine, distance) in encoders.items():
            if cosine is not None and not (cosine >= MIN_COSINE and distance <= MAX_DISTANCE):
                yield (
                    f"{what}_encoder.onnx: cosine {cosine:.6f} to the feature that the model was "
                    f"trained on, at least {MIN_COSINE} expected; distance {distance:.3g}, at most "
                    f"{MAX_DISTANCE:.3g} allowed"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The report, and what the staged bundle gains for each held-out user."""

    report: GateReport
    gains: Gains


def measure(run: TrainedRun, folder: Path) -> Measured:
    """Compare the staged bundle in `folder` with the run; `check` the report.

    `ParityError` if what it stores is not what the checkpoint holds or cannot be computed at all,
    `BundleError` or `ExportError` if a file cannot be read.
    """
    with _computable(), _opened(folder) as model:
        manifest = model.bundle.manifest
        stored = check_stored(run, folder, manifest, model.bundle.catalogue)
        require_none([*problems_of_files(stored)])  # the references below read the tables
        folded = is_folded(manifest)
        rows = _plain_rows(run, folder, folded=folded)
        probed, probe_error = _probe(run, rows, model)
        model.bind_eligible(model.bundle.catalogue.available)
        asked = held_out(run.split, manifest.exclude_seen)
        gain_E = bundle_gains(model, asked)
        buckets = check_buckets(run, model.runner, rows, asked.histories)
        with _item_runner(run, folder, manifest) as item:
            items = item_parity(run, item, folded=folded)
            made_up = made_up_parity(run, item, folded=folded)
            subsets = check_subsets(run, item, model.runner, asked.histories, folded=folded)
        image, text = _encoders(run, folder, manifest)
    report = GateReport(
        sequence=probed,
        probe_error=probe_error,
        held_out=compare(gain_E, torch_gains(run.model, rows, run.split, asked)),
        buckets=buckets,
        item_items=run.info.items,
        item=items,
        made_up=made_up,
        subsets=subsets,
        stored=stored,
        image_items=image.items,
        image_min_cosine=image.min_cosine,
        image_max_distance=image.max_distance,
        image_max_abs_error=image.max_abs_error,
        text_items=text.items,
        text_min_cosine=text.min_cosine,
        text_max_distance=text.max_distance,
        text_max_abs_error=text.max_abs_error,
    )
    return Measured(report=report, gains=Gains(asked=asked, ndcg_E=gain_E))


def _plain_rows(run: TrainedRun, folder: Path, *, folded: bool) -> ItemRows:
    """Return the rows as PyTorch reads them: of the tables in place, where these are plain."""
    if folded:
        return item_rows(run)
    inputs_NW, outputs_ND = stored_tensors(folder, run.info.items)
    return ItemRows(inputs_nW=inputs_NW, outputs_nD=outputs_ND, sides={})


@contextmanager
def _computable() -> Iterator[None]:
    """Say in one line that a graph fails while it computes."""
    try:
        yield
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ParityError(f"a graph cannot be computed ({reason}); {PUBLISHED_NOTHING}") from None
    except ProbeFailed as error:
        raise ParityError(f"{error}; {PUBLISHED_NOTHING}") from None


@contextmanager
def _opened(folder: Path) -> Iterator[SequenceModel]:
    model = open_model(folder, threads=THREADS)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def _item_runner(run: TrainedRun, folder: Path, manifest: Manifest) -> Iterator[Runner]:
    spec = manifest.graphs["item"]
    runner = open_onnx(folder / spec.file, spec, threads=THREADS)
    try:
        runner.bind("id_table", id_table(run))
        yield runner
    finally:
        runner.close()


def _probe(run: TrainedRun, rows: ItemRows, model: SequenceModel) -> tuple[ProbeReport, float]:
    """Compare with PyTorch on real histories; return that and the error of the stored answers.

    Where the stored histories are made up, they are put through the runner as well.
    """
    bundle = model.bundle
    items = bundle.manifest.tables.items
    kind: ProbeKind = bundle.manifest.provenance["probe"]
    real = probe_set(run, rows, "real")
    report = probe_runner(model.runner, real, bundle.item_outputs_CD, items)
    stored, wanted = load_probe(bundle.folder, items), real
    if kind == "synthetic":
        prove(model).check()
        wanted = probe_set(run, rows, kind)
    return report, _probe_error(stored, wanted)


def _probe_error(stored: ProbeSet, wanted: ProbeSet) -> float:
    same = all(
        getattr(stored, name).shape == getattr(wanted, name).shape
        and bool((getattr(stored, name) == getattr(wanted, name)).all())
        for name in ("history_PL", "length_P", "target_P")
    )
    if not same:
        return math.inf
    state = difference(stored.state_PD, wanted.state_PD)
    return state.worse(difference(stored.top_scores_PK, wanted.top_scores_PK)).max_error


def _encoders(
    run: TrainedRun, folder: Path, manifest: Manifest
) -> tuple[EncoderCheck, EncoderCheck]:
    image = text = EncoderCheck(items=0, min_cosine=None)
    if "image_encoder" in manifest.graphs:
        spec = manifest.graphs["image_encoder"]
        image = check_image(run, folder / spec.file, spec)
    if "text_encoder" in manifest.graphs:
        text = check_text(run, folder, manifest.graphs["text_encoder"])
    return image, text
