"""One trained run -> one staged bundle, put through both gates. Publishing is the repository's."""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmsr.bundle.files import read_json, sha256_file
from mmsr.bundle.manifest import (
    GraphSpec,
    Manifest,
    TableSizes,
    describe_files,
    load_manifest,
)
from mmsr.bundle.repository import Move, Repository
from mmsr.engine.memory import give_back
from mmsr.export.choose_precision import prove_in_precision
from mmsr.export.content_vectors import write_content_vectors
from mmsr.export.encoder_memory import Known, known_of
from mmsr.export.encoders import TOKENIZER, write_image, write_text
from mmsr.export.forms import forms_of
from mmsr.export.gate import GateReport, Measured, measure
from mmsr.export.initializers import digest_of, initializer_hashes, recorded_digest
from mmsr.export.int8_text import INT8, install_int8_text
from mmsr.export.manifest_fields import features_of
from mmsr.export.precision import PrecisionError
from mmsr.export.publication import publish_with
from mmsr.export.quality import Policy, QualityError, QualityReport, judge
from mmsr.export.reuse import follows_from, reuse_graph
from mmsr.export.stored import stored_tensors
from mmsr.export.tables import (
    ProbeKind,
    catalogue_of,
    plain_rows,
    probe_set,
    write_tables,
)
from mmsr.export.template_store import TemplateStore, version_of
from mmsr.export.trained_graphs import write_trained
from mmsr.export.triton import staged_triton
from mmsr.training.architectures import require_exportable
from mmsr.training.checkpoint import RunRef
from mmsr.training.config import recipe_to_dict
from mmsr.training.run import TrainedRun, provenance

GRAPH_FILES = {
    "sequence": "sequence.onnx",
    "explain": "explain.onnx",
    "item": "item.onnx",
    "image_encoder": "image_encoder.onnx",
    "text_encoder": "text_encoder.onnx",
}


@dataclass(kw_only=True)
class Stages:
    """Names and seconds of what was done, told as it happens."""

    tell: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; the next one begins with the memory that is in use."""
        self.tell(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)
        give_back()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a bundle is made, and beside what it has to stand."""

    probe: ProbeKind = "real"
    label: str = "stable"  # the bundle that it names now is the live one
    promote: bool = True  # move the label to what is published
    policy: Policy = field(default_factory=Policy)
    triton: Path | None = None  # Triton's model repository, written as well
    precision: str = "fp32"  # of the sequence graph; "auto": the fastest that passes
    text_precision: str = "fp32"  # of the text encoder; or int8
    fresh: bool = False  # convert and measure all anew, whatever earlier exports have left

    def __post_init__(self) -> None:
        if self.triton is not None and self.precision != "fp32":
            raise PrecisionError(
                f"precision {self.precision} for a Triton model repository, expected fp32; leave "
                "out --precision or --triton"
            )


@dataclass(frozen=True, kw_only=True)
class Proven:
    """What the two gates measured."""

    measured: Measured
    quality: QualityReport

    @property
    def parity(self) -> GateReport:
        """Return what the gate of parity measured."""
        return self.measured.report

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {"parity": self.parity.to_json(), "quality": self.quality.to_json()}


@dataclass(frozen=True, kw_only=True)
class _Graphs:
    """The graphs of a bundle, and what numbers each was written with."""

    specs: dict[str, GraphSpec]
    digests: dict[str, str]
    # Where trained numbers come from; None: the graph had to be converted, and does not show it.
    weights: dict[str, Any] = field(default_factory=dict)
    reused: tuple[str, ...] = ()  # written without a conversion

    def __or__(self, other: "_Graphs") -> "_Graphs":
        return _Graphs(
            specs=self.specs | other.specs,
            digests=self.digests | other.digests,
            weights=self.weights | other.weights,
            reused=self.reused + other.reused,
        )


def publish_run(
    run: TrainedRun, plan: Plan, repository: Repository, stages: Stages
) -> tuple[str, Proven]:
    """Build, prove and publish a bundle; return its id. What the gates refuse leaves nothing.

    A label that another export, or somebody, moves meanwhile has the bundle judged once more,
    beside what the label names then.
    """
    with repository.stage() as staged, ExitStack() as stack:
        proven = build_bundle(run, staged, plan, repository, stages)
        triton = None
        if plan.triton is not None:  # before anything is published: it may be refused too
            with stages.stage("triton"):
                triton = stack.enter_context(staged_triton(staged, plan.triton))

        def again() -> Move:
            nonlocal proven
            proven = _judge(run, staged, proven.measured, plan, repository, stages)
            return _move(plan, proven)

        to = _move(plan, proven) if plan.promote else None
        with stages.stage("publish"):
            bundle_id = publish_with(triton, staged, repository, to, again)
        return bundle_id, proven


def _move(plan: Plan, proven: Proven) -> Move:
    """Return how the label is to be moved: from what the bundle was judged beside."""
    live = proven.quality.live
    return Move(label=plan.label, named=live.bundle_id if live else None)


def build_bundle(
    run: TrainedRun, folder: Path, plan: Plan, repository: Repository, stages: Stages
) -> Proven:
    """Write a complete bundle into the empty `folder` and put it through both gates.

    Encoders that a bundle of `repository` has already are taken from there. Raises what the gates
    raise, and `NotExportableError`; then `folder` is worth nothing.
    """
    write_bundle(run, folder, plan.probe, repository, stages, fresh=plan.fresh)
    if plan.text_precision == INT8:
        with stages.stage("text encoder in int8"):
            install_int8_text(folder)
    return prove_in_precision(
        plan.precision,
        folder,
        lambda: prove_bundle(run, folder, plan, repository, stages),
        lambda: stages.stage("race"),
    )


def prove_bundle(
    run: TrainedRun, folder: Path, plan: Plan, repository: Repository, stages: Stages
) -> Proven:
    """Put the bundle in `folder` through both gates; what they measured goes into its manifest."""
    with stages.stage("parity"):
        known = Known() if plan.fresh else known_of(repository)
        measured = measure(run, folder, known)
        measured.report.check()
    return _judge(run, folder, measured, plan, repository, stages)


def _judge(
    run: TrainedRun,
    folder: Path,
    measured: Measured,
    plan: Plan,
    repository: Repository,
    stages: Stages,
) -> Proven:
    """Put a bundle that agrees with PyTorch through the gate of quality, and record both."""
    with stages.stage("quality"):
        quality = judge(run, measured.gains, repository, plan.label, plan.policy)
        try:
            quality.check()
        except QualityError as error:
            error.parity = measured.report
            raise
    if folder.exists():  # not published yet: nobody but us sees it
        _record(folder, measured, quality)
    return Proven(measured=measured, quality=quality)


def _record(folder: Path, measured: Measured, quality: QualityReport) -> None:
    manifest = load_manifest(folder)
    checks = {name: asdict(check) for name, check in measured.encoder_checks.items()}
    provenance = manifest.provenance | {"quality": quality.to_json(), "encoder_checks": checks}
    parity = measured.report.to_json()
    replace(manifest, parity=parity, provenance=provenance).save(folder)


def write_bundle(
    run: TrainedRun,
    folder: Path,
    probe: ProbeKind,
    repository: Repository,
    stages: Stages,
    *,
    fresh: bool = False,
) -> None:
    """Write every file of a bundle, the manifest last; nothing of it is proven yet.

    `fresh`: convert every graph, whatever earlier exports have left in the repository.
    """
    require_exportable(run.info.recipe.model)
    decided = forms_of(run.info.recipe.model, run.info.items)
    fold, scoring = decided.rows, decided.scoring
    forms = {"folded": fold.folded, "chunked": scoring.chunked}
    store = TemplateStore(root=repository.root, fresh=fresh)
    with stages.stage("graphs"):
        graphs = _write_graphs(run, folder, ("sequence", "item"), store, **forms)
    with stages.stage("explain"):
        graphs |= _write_graphs(run, folder, ("explain",), store, **forms)
    with stages.stage("encoders"):
        graphs |= _write_encoders(run, folder, repository, fresh=fresh)
    with stages.stage("tables"):
        sizes = write_tables(run, folder, folded=fold.folded)
        write_content_vectors(run, folder, sizes.capacity)
        catalogue_of(run).save(folder)
        rows = plain_rows(run, stored_tensors(folder, sizes.items), folded=fold.folded)
        probe_set(run, rows, probe).save(folder)
        del rows  # pages of both tables
    with stages.stage("hashes"):
        manifest = _manifest(run, folder, graphs, sizes, probe)
        recorded = manifest.provenance | {
            "item_rows": asdict(fold),
            "scoring": asdict(scoring),
        }
        replace(manifest, provenance=recorded).save(folder)


def _write_graphs(
    run: TrainedRun,
    folder: Path,
    names: Sequence[str],
    store: TemplateStore,
    *,
    folded: bool,
    chunked: bool,
) -> _Graphs:
    written = {
        name: write_trained(
            name, run.model, folder / GRAPH_FILES[name], store, folded=folded, chunked=chunked
        )
        for name in names
    }
    return _Graphs(
        specs={name: graph.spec for name, graph in written.items()},
        digests={
            name: digest_of(initializer_hashes(folder / GRAPH_FILES[name])) for name in written
        },
        weights={n: g.weights.to_json() if g.weights else None for n, g in written.items()},
        reused=tuple(name for name, graph in written.items() if graph.reused),
    )


def _write_encoders(
    run: TrainedRun, folder: Path, repository: Repository, *, fresh: bool
) -> _Graphs:
    specs: dict[str, GraphSpec] = {}
    digests: dict[str, str] = {}
    reused: list[str] = []
    for graph, made_from in _made_from(run).items():
        files: tuple[str, ...] = (GRAPH_FILES[graph],)
        if graph == "text_encoder":
            files = (*files, TOKENIZER)
        digest = None if fresh else recorded_digest(repository, graph, made_from)
        found = None
        if digest is not None:  # without it nothing would say what the file should hold
            found = reuse_graph(repository, graph, made_from, files, folder)
        if digest is not None and found is not None:
            reused.append(graph)
        else:
            write = write_image if graph == "image_encoder" else write_text
            spec = run.info.features[graph.removesuffix("_encoder")]
            found = write(spec, folder / GRAPH_FILES[graph])
            digest = digest_of(initializer_hashes(folder / GRAPH_FILES[graph]))
        specs[graph], digests[graph] = found, digest
    return _Graphs(specs=specs, digests=digests, reused=tuple(reused))


def _made_from(run: TrainedRun) -> dict[str, Any]:
    """Return, for each encoder graph, what it follows from."""
    features = features_of(run)
    return {
        graph: follows_from(graph, spec)
        for graph in ("image_encoder", "text_encoder")
        if (spec := features.get(graph.removesuffix("_encoder"))) is not None
    }


def _versions() -> dict[str, str | None]:
    return {name: version_of(name) for name in ("mmsr", "torch", "onnx", "onnxscript")}


def _manifest(
    run: TrainedRun,
    folder: Path,
    graphs: _Graphs,
    sizes: TableSizes,
    probe: ProbeKind,
) -> Manifest:
    recipe = run.info.recipe
    return Manifest(
        max_length=recipe.model.max_length,
        exclude_seen=recipe.serving.exclude_seen,
        tables=sizes,
        graphs=graphs.specs,
        model=recipe_to_dict(recipe)["model"],
        features=features_of(run),
        files=describe_files(folder),
        provenance={
            **_provenance(run),
            "probe": probe,
            "initializers": graphs.digests,
            "weights": graphs.weights,
            "reused": list(graphs.reused),
        },
        metrics=_metrics(run),
    )


def _provenance(run: TrainedRun) -> dict[str, Any]:
    return {
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": sha256_file(run.checkpoint / "model.safetensors"),
        "checkpoint": run.checkpoint.name,
        "data_hash": run.info.data_hash,
        "data": run.dataset.info.name,
        "newest": float(run.dataset.times_T.max()),  # time of the newest interaction
        "training": run.info.provenance,
        "init_from": _checkpoint(run.info.init_from),
        "selected_by": _checkpoint(run.info.selected_by),  # whose metrics these are, if any
        "recipe": {k: v for k, v in recipe_to_dict(run.info.recipe).items() if k != "features"},
        "versions": _versions() | {"onnxruntime-gpu": version_of("onnxruntime-gpu")},
        "made_from": _made_from(run),
        "python": platform.python_version(),
        "commit": provenance()["commit"],
    }


def _checkpoint(ref: RunRef | None) -> dict[str, Any] | None:
    """Return which checkpoint it was, without where it lay."""
    return None if ref is None else {k: v for k, v in asdict(ref).items() if k != "run"}


def _metrics(run: TrainedRun) -> dict[str, float]:
    """Return the metrics of `mmsr-train evaluate`, if it has been run on this checkpoint."""
    path = run.checkpoint.parents[1] / "evaluation.json"
    if not path.is_file():
        return {}
    evaluation = read_json(path, "the metrics of a run")
    if evaluation.get("checkpoint") != run.checkpoint.name:
        return {}
    metrics: dict[str, float] = evaluation["metrics"]
    return metrics
