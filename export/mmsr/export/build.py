"""One trained run -> one staged, proven bundle. Publishing is the repository's work."""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmsr.bundle.files import read_json, sha256_file
from mmsr.bundle.manifest import GraphSpec, Manifest, TableSizes, describe_files
from mmsr.bundle.repository import Repository
from mmsr.engine.probe import run_probe
from mmsr.export.convert import convert_item, convert_sequence
from mmsr.export.encoders import (
    TOKENIZER,
    EncoderCheck,
    check_image,
    check_text,
    write_image,
    write_text,
)
from mmsr.export.gate import GateReport, check_item_graph
from mmsr.export.reuse import reuse_graph
from mmsr.export.tables import ProbeKind, catalogue_of, item_rows, probe_set, write_tables
from mmsr.training.architectures import require_exportable
from mmsr.training.checkpoint import RunRef
from mmsr.training.config import recipe_to_dict
from mmsr.training.items import ItemRows
from mmsr.training.run import TrainedRun, provenance

GRAPH_FILES = {
    "sequence": "sequence.onnx",
    "item": "item.onnx",
    "image_encoder": "image_encoder.onnx",
    "text_encoder": "text_encoder.onnx",
}
LOCAL_PATHS = ("weights_path", "path")  # of an encoder's spec: mean nothing on another machine


@dataclass(kw_only=True)
class Stages:
    """Names and seconds of what was done, told as it happens."""

    tell: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        self.tell(name)
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)


def build_bundle(
    run: TrainedRun, folder: Path, probe: ProbeKind, repository: Repository, stages: Stages
) -> GateReport:
    """Write a complete bundle into the empty `folder` and put it through the gate.

    Encoders that a bundle of `repository` has already are taken from there. Raises what the gate
    raises, and `NotExportableError`; then `folder` is worth nothing.
    """
    require_exportable(run.info.recipe.model)
    rows = item_rows(run)
    with stages.stage("graphs"):
        graphs = {
            "sequence": convert_sequence(run.model, folder / GRAPH_FILES["sequence"]),
            "item": convert_item(run.model, folder / GRAPH_FILES["item"]),
        }
    with stages.stage("encoders"):
        graphs |= _write_encoders(run, folder, repository)
    with stages.stage("tables"):
        sizes = write_tables(run, rows, folder)
        catalogue_of(run).save(folder)
        probe_set(run, rows, probe).save(folder)
    with stages.stage("hashes"):
        manifest = _manifest(run, folder, graphs, sizes, probe)
        manifest.save(folder)
    with stages.stage("gate"):
        report = _measure(run, rows, folder, graphs)
        report.check()
    replace(manifest, parity=report.to_json()).save(folder)
    return report


def _write_encoders(run: TrainedRun, folder: Path, repository: Repository) -> dict[str, GraphSpec]:
    graphs: dict[str, GraphSpec] = {}
    for graph, made_from in _made_from(run).items():
        files: tuple[str, ...] = (GRAPH_FILES[graph],)
        if graph == "text_encoder":
            files = (*files, TOKENIZER)
        found = reuse_graph(repository, graph, made_from, files, folder)
        if found is None:
            write = write_image if graph == "image_encoder" else write_text
            spec = run.info.features[graph.removesuffix("_encoder")]
            found = write(spec, folder / GRAPH_FILES[graph])
        graphs[graph] = found
    return graphs


def _made_from(run: TrainedRun) -> dict[str, Any]:
    """Return, for each encoder graph, what it follows from."""
    features = _features(run)
    return {
        f"{modality}_encoder": {"spec": features[modality], "versions": _versions()}
        for modality in ("image", "text")
        if features.get(modality) is not None
    }


def _versions() -> dict[str, str | None]:
    return {name: _version(name) for name in ("mmsr", "torch", "onnx", "onnxscript")}


def _manifest(
    run: TrainedRun,
    folder: Path,
    graphs: dict[str, GraphSpec],
    sizes: TableSizes,
    probe: ProbeKind,
) -> Manifest:
    recipe = run.info.recipe
    return Manifest(
        max_length=recipe.model.max_length,
        exclude_seen=recipe.serving.exclude_seen,
        tables=sizes,
        graphs=graphs,
        model=recipe_to_dict(recipe)["model"],
        features=_features(run),
        files=describe_files(folder),
        provenance=_provenance(run) | {"probe": probe},
        metrics=_metrics(run),
    )


def _features(run: TrainedRun) -> dict[str, Any]:
    specs: dict[str, Any] = {
        modality: spec and {k: v for k, v in spec.items() if k not in LOCAL_PATHS}
        for modality, spec in run.info.features.items()
    }
    return specs | {"categories": run.dataset.info.categories}


def _provenance(run: TrainedRun) -> dict[str, Any]:
    return {
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "checkpoint_sha256": sha256_file(run.checkpoint / "model.safetensors"),
        "checkpoint": run.checkpoint.name,
        "data_hash": run.info.data_hash,
        "data": run.dataset.info.name,
        "training": run.info.provenance,
        "init_from": _checkpoint(run.info.init_from),
        "selected_by": _checkpoint(run.info.selected_by),  # whose metrics these are, if any
        "recipe": {k: v for k, v in recipe_to_dict(run.info.recipe).items() if k != "features"},
        "versions": _versions() | {"onnxruntime-gpu": _version("onnxruntime-gpu")},
        "made_from": _made_from(run),
        "python": platform.python_version(),
        "commit": provenance()["commit"],
    }


def _checkpoint(ref: RunRef | None) -> dict[str, Any] | None:
    """Return which checkpoint it was, without where it lay."""
    return None if ref is None else {k: v for k, v in asdict(ref).items() if k != "run"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # onnxruntime-gpu has another name off Linux
        return None


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


def _measure(
    run: TrainedRun, rows: ItemRows, folder: Path, graphs: dict[str, GraphSpec]
) -> GateReport:
    item_error, without = check_item_graph(run, rows, folder / "item.onnx", graphs["item"])
    image = text = EncoderCheck(items=0, min_cosine=None)
    if "image_encoder" in graphs:
        image = check_image(run, folder / "image_encoder.onnx", graphs["image_encoder"])
    if "text_encoder" in graphs:
        text = check_text(run, folder, graphs["text_encoder"])
    return GateReport(
        sequence=run_probe(folder),
        item_items=run.info.items,
        item_max_error=item_error,
        without=without,
        image_items=image.items,
        image_min_cosine=image.min_cosine,
        text_items=text.items,
        text_min_cosine=text.min_cosine,
    )
