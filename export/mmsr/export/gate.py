"""The gate: nothing is published unless every graph and every stored number agrees with PyTorch.

Measured by the runner that serves, on a staged folder as it will be published. What is measured
stands in `parity`, `subsets`, `held_out`, `encoders` and `stored`; here is what is allowed.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from mmsr.bundle.manifest import Manifest
from mmsr.engine.encoders import text_precision_of
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.memory import give_back
from mmsr.engine.model import SequenceModel
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.precision import FP32, FP32_TOLERANCE, limits_of, precision_of
from mmsr.engine.probe import ProbeReport, probe_runner, prove
from mmsr.engine.probe_answers import bind_rows
from mmsr.engine.probe_set import ProbeSet, load_probe
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import LOAD_ERRORS, open_onnx
from mmsr.export.encoder_memory import Known, KnownChecks, image_key, remembered, text_key
from mmsr.export.encoders import EncoderCheck, check_image, check_text
from mmsr.export.explain_parity import ExplainReport, check_explain
from mmsr.export.folding import is_folded
from mmsr.export.held_out import (
    Comparison,
    Gains,
    bundle_gains,
    compare,
    held_out,
    torch_gains,
)
from mmsr.export.int8_text import INT8, text_effect
from mmsr.export.onnx_file import ExportError
from mmsr.export.parity import (
    THREADS,
    Agreement,
    Difference,
    difference,
    id_table,
    item_parity,
    made_up_parity,
    pooled,
)
from mmsr.export.provable import open_to_prove
from mmsr.export.refusal import PUBLISHED_NOTHING, RefusedError
from mmsr.export.stored import StoredReport, check_stored
from mmsr.export.subsets import SubsetReport, check_buckets, check_subsets
from mmsr.export.tables import ProbeKind, StoredRows, plain_rows, probe_set
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun

# fp32 against fp32: the item side is a few short sums, measured 5e-7 of the largest entry.
ITEM_TOLERANCE = 1e-5
# The states that the probe set stores, computed again: the same sums, in other blocks.
PROBE_TOLERANCE = 1e-5
# Of one history item's share of the attention; the shares sum to 1. Measured 1.2e-7 (Beauty).
ATTENTION_TOLERANCE = 1e-5
# A frozen encoder is deep, its features are many: compared by direction. Measured 1 - 1e-7.
MIN_COSINE = 0.9999
INT8_TEXT_COSINE = 0.95  # of eight bits, many layers: MiniLM measured .983; NDCG decides
WHAT_TO_DO = "export again with --fresh; if refused again, report it with what --json prints"
NOTHING = Known()


class ParityError(RefusedError, ExportError):
    """A bundle does not answer as PyTorch does, or does not hold what the checkpoint holds."""

    exit_code = 4


def require_none(problems: Sequence[str], report: "GateReport | None" = None) -> None:
    """Raise `ParityError` with the first few problems, if there are any."""
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        error = ParityError(f"{'; '.join(problems[:3])}{more}; {PUBLISHED_NOTHING}; {WHAT_TO_DO}")
        error.parity = report
        raise error


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
    if stored.wrong_codes:
        yield f"the 8-bit codes of {stored.wrong_codes} rows are not those of the fp32 table"
    if stored.wrong_items:
        yield (
            f"catalogue.parquet: {stored.wrong_items} of {stored.items} rows are not the items "
            "that the checkpoint was trained with, each available"
        )
    yield from _problems_of_numbers(stored)
    for name in stored.wrong_files:
        yield f"{name} is not the one that the model was trained with"
    for name in stored.wrong_fields:
        yield f"manifest.json: {name} is not what the model was trained with"


def _problems_of_numbers(stored: StoredReport) -> Iterator[str]:
    for name in stored.wrong_graphs:
        yield f"{name} does not hold the numbers of a fresh conversion"
    for name, what in stored.wrong_weights.items():
        yield f"{name}: {what} is not what the checkpoint gives"
    for graph, check in stored.encoder_weights.items():
        if check.wrong is not None:
            yield f"{graph}.onnx: {check.wrong} is not what the encoder's weights give"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """What was measured of each graph; ends in the manifest as numbers."""

    precision: str = FP32  # of the sequence graph
    sequence: ProbeReport  # on real histories
    probe_error: float = 0.0  # of the stored answers, against PyTorch's computed anew
    held_out: Comparison  # NDCG@10 of all held-out users, against PyTorch
    buckets: dict[str, Agreement] = field(default_factory=dict)  # length that is padded to
    item_items: int = 0  # table rows recomputed by item.onnx
    item: dict[str, Difference] = field(default_factory=dict)  # each output of item.onnx
    made_up: dict[str, Difference] = field(default_factory=dict)  # the same on drawn content
    subsets: dict[str, SubsetReport] = field(default_factory=dict)  # a part of every item missing
    explain: ExplainReport | None = None  # with each source left out; None: no such graph
    stored: StoredReport = field(default_factory=StoredReport)
    image_items: int = 0
    image_min_cosine: float | None = None  # against the features that the model was trained on
    image_max_distance: float = 0.0
    image_max_abs_error: float = 0.0
    image_measured_in: str | None = None  # an earlier bundle whose export read the same bytes
    text_items: int = 0
    text_min_cosine: float | None = None
    text_max_distance: float = 0.0
    text_max_abs_error: float = 0.0
    text_measured_in: str | None = None
    text_precision: str = FP32
    # NDCG@10 where some texts are encoded by the bundle, against the stored features; int8 alone.
    text_effect: Comparison | None = None

    def check(self) -> None:
        """Raise `ParityError` that says what differs and by how much."""
        require_none(
            [
                *problems_of_files(self.stored),
                *self._of_items(),
                *self._of_ranking(),
                *self._of_explanations(),
                *self._of_encoders(),
            ],
            self,
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
        limits = limits_of(self.precision)
        try:
            replace(self.sequence, precision=self.precision).check()
        except ProbeFailed as error:
            yield str(error).partition("; export the model again")[0]
        for what, found in self._forms().items():
            if not (found.overlap >= limits.overlap and found.max_error <= limits.score_error):
                yield (
                    f"sequence.onnx, {what}: overlap {found.overlap:.4f}, at least "
                    f"{limits.overlap:g} expected, score error {found.max_error:.3g}"
                )
        if not self.probe_error <= PROBE_TOLERANCE:
            yield f"probe.npz differs from PyTorch's answers by {self.probe_error:.3g}"
        if self.held_out.is_lower(limits.ndcg_loss):
            yield (
                f"NDCG@10 {self.held_out.ndcg:.5f}, PyTorch's {self.held_out.reference:.5f} on "
                f"{self.held_out.users} users"
            )

    def _forms(self) -> dict[str, Agreement]:
        """Return each form of call; where some rows may be wrong, too few for each form alone."""
        widths = {f"padded to {width}": found for width, found in self.buckets.items()}
        subsets = {name: report.sequence for name, report in self.subsets.items()}
        if self.precision == FP32:
            return widths | subsets
        groups = {"all paddings": [*widths.values()], "all subsets": [*subsets.values()]}
        return {name: pooled(found) for name, found in groups.items() if found}

    def _of_explanations(self) -> Iterator[str]:
        for source, found in (self.explain.left_out if self.explain else {}).items():
            for what, error, most in (
                ("score", found.score_error, FP32_TOLERANCE),
                ("attention", found.attention_error, ATTENTION_TOLERANCE),
            ):
                if not error <= most:
                    yield (
                        f"explain.onnx, {source} left out: {what} error {error:.3g}, at most "
                        f"{most:g} allowed"
                    )

    def _of_encoders(self) -> Iterator[str]:
        text_least = INT8_TEXT_COSINE if self.text_precision == INT8 else MIN_COSINE
        encoders = {
            "image": (self.image_min_cosine, self.image_max_distance, MIN_COSINE),
            "text": (self.text_min_cosine, self.text_max_distance, text_least),
        }
        for what, (cosine, distance, least) in encoders.items():
            most = math.sqrt(2 * (1 - least))  # of two rows of one length and that cosine
            if cosine is not None and not (cosine >= least and distance <= most):
                yield (
                    f"{what}_encoder.onnx: cosine {cosine:.6f} to the feature that the model was "
                    f"trained on, at least {least} expected; distance {distance:.3g}, at most "
                    f"{most:.3g} allowed"
                )
        effect = self.text_effect
        if effect is not None and effect.is_lower(limits_of(INT8).ndcg_loss):
            yield (
                f"text_encoder.onnx: NDCG@10 {effect.ndcg:.5f} with texts encoded in int8, "
                f"{effect.reference:.5f} without, on {effect.users} users"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The report, and what the staged bundle gains for each held-out user."""

    report: GateReport
    gains: Gains
    encoder_checks: dict[str, EncoderCheck]  # of each encoder graph that there is


def measure(run: TrainedRun, folder: Path, known: Known = NOTHING) -> Measured:
    """Compare the staged bundle in `folder` with the run; `check` the report.

    `known` are comparisons of encoders that need not be computed again.
    `ParityError` if what it stores is not what the checkpoint holds or cannot be computed at all,
    `BundleError` or `ExportError` if a file cannot be read.
    """
    with _computable(), _opened(folder) as model:
        manifest = model.bundle.manifest
        stored = check_stored(run, folder, manifest, model.bundle.catalogue, known.weights)
        require_none([*problems_of_files(stored)])  # the references below read the tables
        folded, precision = is_folded(manifest), precision_of(manifest)
        rows = plain_rows(run, _tables_in_place(model.bundle), folded=folded)
        probed, probe_error = _probe(run, rows, model)
        model.bind()
        asked = held_out(run.split, manifest.exclude_seen)
        gain_E = bundle_gains(model, asked)
        explain = check_explain(run, model, rows, asked.histories)
        bind_rows(
            model.runner, model.bundle.item_outputs_CD, manifest.tables.items, model.bundle.codes
        )
        buckets = check_buckets(run, model.runner, rows, asked.histories)
        with _item_runner(run, folder, manifest) as item:
            items = item_parity(run, item, folded=folded)
            made_up = made_up_parity(run, item, folded=folded)
            subsets = check_subsets(run, item, model.runner, asked.histories, folded=folded)
        encoders = _encoders(run, folder, manifest, known.checks)
        effect = text_effect(run, folder, manifest, rows, asked)
    absent = EncoderCheck(items=0, min_cosine=None)
    image, text = (encoders.get(f"{what}_encoder", absent) for what in ("image", "text"))
    report = GateReport(
        precision=precision,
        sequence=replace(probed, precision=precision),
        probe_error=probe_error,
        held_out=compare(gain_E, torch_gains(run.model, rows, run.split, asked)),
        buckets=buckets,
        item_items=run.info.items,
        item=items,
        made_up=made_up,
        subsets=subsets,
        explain=explain,
        stored=stored,
        image_items=image.items,
        image_min_cosine=image.min_cosine,
        image_max_distance=image.max_distance,
        image_max_abs_error=image.max_abs_error,
        image_measured_in=image.measured_in,
        text_items=text.items,
        text_min_cosine=text.min_cosine,
        text_max_distance=text.max_distance,
        text_max_abs_error=text.max_abs_error,
        text_measured_in=text.measured_in,
        text_precision=text_precision_of(manifest),
        text_effect=effect,
    )
    return Measured(
        report=report,
        gains=Gains(asked=asked, ndcg_E=gain_E),
        encoder_checks=encoders,
    )


def _tables_in_place(bundle: OpenedBundle) -> StoredRows:
    """Return the tables that the runner reads as tensors, of the same pages."""
    return torch.from_numpy(bundle.item_inputs_CW), torch.from_numpy(bundle.item_outputs_CD)


@contextmanager
def _computable() -> Iterator[None]:
    """Say in one line that a graph fails while it computes."""
    try:
        yield
    except LOAD_ERRORS as error:
        reason = " ".join(str(error).split())
        problem = f"a graph cannot be computed ({reason})"
        raise ParityError(f"{problem}; {PUBLISHED_NOTHING}; {WHAT_TO_DO}") from None
    except ProbeFailed as error:
        raise ParityError(f"{error}; {PUBLISHED_NOTHING}") from None


@contextmanager
def _opened(folder: Path) -> Iterator[SequenceModel]:
    model = open_to_prove(folder, threads=THREADS)
    try:
        yield model
    finally:
        model.close()
        give_back()


@contextmanager
def _item_runner(run: TrainedRun, folder: Path, manifest: Manifest) -> Iterator[Runner]:
    give_back()  # what all the histories took
    spec = manifest.graphs["item"]
    runner = open_onnx(folder / spec.file, spec, threads=THREADS)
    try:
        runner.bind("id_table", id_table(run))
        yield runner
    finally:
        runner.close()
        give_back()  # before whole encoders are read


def _probe(run: TrainedRun, rows: ItemRows, model: SequenceModel) -> tuple[ProbeReport, float]:
    """Compare with PyTorch on real histories; return that and the error of the stored answers.

    Where the stored histories are made up, they are put through the runner as well.
    """
    bundle = model.bundle
    items = bundle.manifest.tables.items
    kind: ProbeKind = bundle.manifest.provenance["probe"]
    real = probe_set(run, rows, "real")
    bind_rows(model.runner, bundle.item_outputs_CD, items, bundle.codes)
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
    run: TrainedRun, folder: Path, manifest: Manifest, known: KnownChecks
) -> dict[str, EncoderCheck]:
    found = {}
    if "image_encoder" in manifest.graphs:
        spec = manifest.graphs["image_encoder"]
        found["image_encoder"] = remembered(
            image_key(run, folder, spec), known, lambda: check_image(run, folder / spec.file, spec)
        )
    if "text_encoder" in manifest.graphs:
        text = manifest.graphs["text_encoder"]
        found["text_encoder"] = remembered(
            text_key(run, folder, text), known, lambda: check_text(run, folder, text)
        )
    return found
