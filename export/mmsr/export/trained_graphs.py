"""The graphs that hold trained weights: written from a template, and compared with the model.

A template is made once per architecture and release (`template`), from a model without items and
with random numbers. A night that brings nothing but other weights converts nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mmsr.bundle.manifest import GraphSpec, Manifest
from mmsr.export.convert import item_conversion, sequence_conversion
from mmsr.export.explain_graph import explain_conversion
from mmsr.export.folding import is_folded
from mmsr.export.initializers import arrays_of
from mmsr.export.onnx_file import Conversion, ExportError
from mmsr.export.template import (
    NotATemplateError,
    Template,
    Weights,
    make_template,
    same_numbers,
    structure_of,
    tensors_of,
)
from mmsr.export.template_store import TemplateStore
from mmsr.training.architectures import build_model
from mmsr.training.model import SequentialRecommender

# Of the largest entry: what a module computes from its weights when it is made (scores of every
# pair of positions), computed again, perhaps on another machine. The weights are the same bits.
COMPUTED_TOLERANCE = 1e-5
STRUCTURE = "its nodes or constants"
UNRECORDED = "what it holds, of which nothing is recorded,"


class Converter(Protocol):
    """A function that says what a graph is made of."""

    def __call__(self, model: SequentialRecommender, *, folded: bool) -> Conversion:
        """Return it for a model and a form of the item rows."""


CONVERSIONS: dict[str, Converter] = {
    "sequence": sequence_conversion,
    "explain": explain_conversion,
    "item": item_conversion,
}


@dataclass(frozen=True, kw_only=True)
class WrittenGraph:
    """One graph, written with the weights of a model."""

    spec: GraphSpec
    weights: Weights | None  # None: they could only be converted, not written into a template
    reused: bool  # nothing was converted


def write_trained(
    graph: str,
    model: SequentialRecommender,
    path: Path,
    store: TemplateStore,
    *,
    folded: bool,
    chunked: bool = False,
) -> WrittenGraph:
    """Write the graph of that name to `path`, from the template that `store` keeps or a new one.

    `chunked` is the form of the scoring, where the graph scores.

    `ExportError` if what was written is not what the model holds.
    """
    convert = CONVERSIONS[graph]
    if graph == "sequence" and chunked:
        convert = partial(sequence_conversion, chunked=True)
    conversion = convert(model, folded=folded)
    widths = feature_widths(model)
    key = store.key(
        graph, {"model": asdict(model.config), "widths": widths, "form": [folded, chunked]}
    )
    template = store.load(graph, key)
    reused = template is not None
    try:
        template = template or _new_template(convert, model, path, folded=folded)
    except NotATemplateError:
        return WrittenGraph(spec=conversion.write(path), weights=None, reused=False)
    spec, weights = template.fill(conversion.module, path)
    if wrong := first_difference(path, weights, conversion.module, _trained(model)):
        raise ExportError(f"{path.name}: {wrong} is not what the model holds; export with --fresh")
    if not reused:
        store.save(graph, key, template, path.with_suffix(".template"))
    return WrittenGraph(spec=spec, weights=weights, reused=reused)


def feature_widths(model: SequentialRecommender) -> dict[str, int]:
    """Return how many features each modality has."""
    encoders = model.item_encoder.modalities
    return {
        name: int(encoders[name].project.in_features)  # type: ignore[union-attr,arg-type]
        for name in model.config.modalities
    }


def _new_template(
    convert: Converter, model: SequentialRecommender, path: Path, *, folded: bool
) -> Template:
    with torch.random.fork_rng(devices=[]):
        blank = build_model(model.config, 1, feature_widths(model)).eval()
    return make_template(convert(blank, folded=folded), path)


def first_difference(
    path: Path, weights: Weights, module: nn.Module, is_trained: Callable[[torch.Tensor], bool]
) -> str | None:
    """Return the first initializer of a graph that is not what the module holds, if there is one.

    Trained tensors must be the same bits, computed ones within `COMPUTED_TOLERANCE`, each cast as
    the graph holds it; everything else (nodes, shapes, constants) must be what it was when the
    graph was written.
    """
    tensors = tensors_of(module)
    held = arrays_of(path)
    for name, source in weights.sources.items():
        tensor = tensors.get(source.tensor)
        if name not in held or tensor is None:
            return name
        wanted = source.array(tensors).astype(held[name].dtype)
        tolerance = 0.0 if is_trained(tensor) else COMPUTED_TOLERANCE
        if not same_numbers(held[name], wanted, tolerance):
            return name
    return None if structure_of(path, weights.sources) == weights.structure else STRUCTURE


def wrong_weights(model: SequentialRecommender, folder: Path, manifest: Manifest) -> dict[str, str]:
    """Compare a bundle's graphs with the model; return file -> what differs, where it does.

    A graph of which nothing is recorded differs; one that had to be converted cannot be compared.
    """
    recorded: dict[str, Any] = manifest.provenance.get("weights", {})
    found: dict[str, str] = {}
    for graph in CONVERSIONS.keys() & manifest.graphs.keys():
        if graph not in recorded:
            found[manifest.graphs[graph].file] = UNRECORDED
            continue
        if (value := recorded[graph]) is None:
            continue
        conversion = CONVERSIONS[graph](model, folded=is_folded(manifest))
        path = folder / manifest.graphs[graph].file
        weights = Weights.from_json(value)
        if wrong := first_difference(path, weights, conversion.module, _trained(model)):
            found[path.name] = wrong
    return found


def trained_numbers(manifest: Manifest) -> dict[str, int | None]:
    """Return how many initializers of each graph are compared with the checkpoint; None: not so."""
    recorded: dict[str, Any] = manifest.provenance.get("weights", {})
    return {graph: value and len(value["sources"]) for graph, value in recorded.items()}


def _trained(model: SequentialRecommender) -> Callable[[torch.Tensor], bool]:
    """Return what tells a checkpoint's tensors from those that a graph's module computes."""
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    return lambda tensor: id(tensor) in own
