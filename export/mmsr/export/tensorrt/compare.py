"""Whether an engine answers as it should, asked through the runner that will serve it.

The sequence graph's engine is compared with PyTorch's answers, which the bundle's probe set holds;
every other with ONNX Runtime's answers by the fp32 graph, which the gate has compared with
PyTorch, on the samples of `samples`. Each profile is asked: it has kernels of its own. Knows no
TensorRT; imports no torch.
"""

# S samples, F columns of an output

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mmsr.bundle.tables import map_table
from mmsr.engine.encoders import ENCODERS
from mmsr.engine.errors import ProbeFailed
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.probe import probe_runner
from mmsr.engine.probe_answers import bind_rows
from mmsr.engine.probe_set import load_probe
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.buckets import Steps
from mmsr.engine.runners.engine_files import EngineFile, steps_of
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.tensorrt.flavour import TensorRTError
from mmsr.export.tensorrt.samples import Batch, Samples
from mmsr.export.vectors import max_distance, min_cosine

IDS = "tables/ids.npy"  # [N + 1, D]
NOTHING_CHANGED = "no engine was kept or replaced"
PROBED = ("users", "overlap", "max_error", "ndcg", "ndcg_reference")  # of a `ProbeReport`
PIECE = 8  # samples of one call of the fp32 graph: 32 pictures at once took a gigabyte


class EngineParityError(TensorRTError):
    """An engine answers otherwise than its graph; it must not be kept."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is allowed of an engine's answers."""

    cosine: float  # least, of a row; its distance is bounded by what that allows
    # Largest error of a row, relative to how far the samples' rows lie from their mean. Features
    # may all be much alike, and then a cosine passes what does not look at its input at all: here
    # that is about 1, and another sample's answer 1.4.
    of_spread: float


# fp32 as the gate has it, with room for sums in another order. Halves with every value rounded, on
# a CPU: features .9999996 and .0015 (trained VGG-16, MiniLM), small random encoders .9999986 and
# .0053, rows of items .9999994 and .0017. A GPU adds up otherwise: ten times as much is allowed.
FEATURES = {
    "fp32": Bounds(cosine=0.9999, of_spread=0.01),
    "fp16": Bounds(cosine=0.999, of_spread=0.05),
}
ITEM_ROWS = {
    "fp32": Bounds(cosine=0.99999, of_spread=0.001),
    "fp16": Bounds(cosine=0.9999, of_spread=0.02),
}


@dataclass(frozen=True, kw_only=True)
class EngineParity:
    """How far an engine's outputs are from those of the fp32 graph; of the worst output."""

    samples: int
    min_cosine: float
    max_distance: float  # relative to the length of the row
    of_spread: float
    max_error: float  # of an entry, relative to max(1, largest entry)

    def problems(self, bounds: Bounds) -> Iterator[str]:
        """Say what is beyond the bounds; comparisons are so written that NaN is, too."""
        most = math.sqrt(2 * (1 - bounds.cosine))  # of two rows of one length and that cosine
        if not self.min_cosine >= bounds.cosine:
            yield f"cosine {self.min_cosine:.6f}, at least {bounds.cosine:g} expected"
        if not self.max_distance <= most:
            yield f"distance {self.max_distance:.3g}, at most {most:.3g} allowed"
        if not self.of_spread <= bounds.of_spread:
            yield (
                f"error {self.of_spread:.3g} of the samples' own spread, at most "
                f"{bounds.of_spread:g} allowed"
            )


class Reference:
    """The fp32 graphs of a bundle, asked its samples once each."""

    def __init__(self, bundle: OpenedBundle) -> None:
        self.bundle = bundle
        self._samples = Samples(bundle, self._feature)
        self._asked: dict[str, list[tuple[Batch, Batch]]] = {}

    def asked(self, graph: str) -> list[tuple[Batch, Batch]]:
        """Return batches of a graph's inputs and what its fp32 form answers to them."""
        if graph not in self._asked:
            batches = self._samples.of(graph)
            with closing(self.open(graph)) as runner:
                bind_tables(runner, graph, self.bundle)
                self._asked[graph] = [(batch, _in_pieces(runner, batch)) for batch in batches]
        return self._asked[graph]

    def open(self, graph: str) -> Runner:
        """Return the runner of the fp32 graph on the CPU."""
        spec = self.bundle.manifest.graphs[graph]
        threads = len(os.sched_getaffinity(0))
        return open_onnx(self.bundle.folder / spec.file, spec, threads=threads)

    def _feature(self, graph: str) -> AnyArray:
        return np.concatenate([answer["feature"] for _, answer in self.asked(graph)])


def compare_engine(
    graph: str, file: EngineFile, runner: Runner, reference: Reference
) -> dict[str, Any]:
    """Return what was measured of a graph's engine; `EngineParityError` if it is to be refused."""
    if graph == "sequence":
        measured, problems = _probed(runner, file.precision, reference)
    else:
        parity = measure(graph, runner, steps_of(file), reference)
        bounds = (FEATURES if graph in ENCODERS else ITEM_ROWS)[file.precision]
        measured, problems = asdict(parity), [*parity.problems(bounds)]
    if problems:
        raise EngineParityError(
            f"{graph}: the engine by {file} in {file.precision} does not answer as the bundle's "
            f"graph: {'; '.join(problems)}; {NOTHING_CHANGED}; build with --precision "
            "fp32, or the other graphs alone with --graph"
        )
    return measured


def measure(graph: str, runner: Runner, steps: Steps, reference: Reference) -> EngineParity:
    """Ask for all samples in batches of each profile's size, and compare the rows."""
    bind_tables(runner, graph, reference.bundle)
    numbers: list[dict[str, float]] = []
    samples = 0
    for batch, wanted in reference.asked(graph):
        samples += _rows(batch)
        for size in steps.dims[steps.batch]:
            found = _in_pieces(runner, batch, size)
            for name, wanted_SF in wanted.items():
                _require_shape(graph, name, found[name], wanted_SF)
                numbers.append(_distances(found[name], wanted_SF))
    return EngineParity(samples=samples, **_worst(numbers))


def bind_tables(runner: Runner, graph: str, bundle: OpenedBundle) -> None:
    """Bind what a graph reads beside its batch."""
    if graph != "item":
        return
    inputs = bundle.manifest.graphs[graph].inputs
    [width] = [tensor.shape[1] for tensor in inputs if tensor.name == "id_table"]
    shape = (bundle.manifest.tables.items + 1, int(width))
    runner.bind("id_table", map_table(bundle.folder / IDS, shape))


def _rows(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _in_pieces(runner: Runner, batch: Batch, size: int = PIECE) -> Batch:
    """Return the answers to all rows, asked so many at a time; the last call begins again."""
    rows, parts = _rows(batch), []
    for begin in range(0, rows, size):
        some = np.arange(begin, begin + size) % rows
        parts.append(runner.run({name: array[some] for name, array in batch.items()}))
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}


def _require_shape(graph: str, name: str, found: AnyArray, wanted: AnyArray) -> None:
    if found.shape != wanted.shape:
        raise EngineParityError(
            f"{graph}: the engine's output {name!r} is {list(found.shape)}, the graph's "
            f"{list(wanted.shape)}; {NOTHING_CHANGED}"
        )


def _distances(found: AnyArray, wanted_SF: AnyArray) -> dict[str, float]:
    """Return the errors of an output; NaN if an entry is."""
    found_SF = found.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        error_SF = np.abs(found_SF - wanted_SF)
        largest = float(np.sqrt((error_SF**2).sum(axis=1)).max())
        centred_SF = wanted_SF - wanted_SF.mean(axis=0)
        spread = float(np.sqrt((centred_SF**2).sum(axis=1).mean()))
        return {
            "of_spread": largest / spread if spread > 0 else math.inf * largest if largest else 0.0,
            "max_error": float(error_SF.max()) / max(1.0, float(np.abs(wanted_SF).max())),
            "min_cosine": min_cosine(found_SF, wanted_SF),
            "max_distance": max_distance(found_SF, wanted_SF),
        }


def _worst(numbers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the worst of each; NaN is."""
    return {
        name: float((np.min if name == "min_cosine" else np.max)([one[name] for one in numbers]))
        for name in numbers[0]
    }


def _probed(
    runner: Runner, precision: str, reference: Reference
) -> tuple[dict[str, Any], list[str]]:
    """Ask a sequence graph's engine for the probe set; what it has no room for, as when serving."""
    bundle = reference.bundle
    items = bundle.manifest.tables.items
    served = WithFallback(runner, lambda: reference.open("sequence"))
    served.bind("item_inputs", bundle.item_inputs_CW)
    bind_rows(served, bundle.item_outputs_CD, items, bundle.codes)
    probe = load_probe(bundle.folder, items)
    report = replace(
        probe_runner(served, probe, bundle.item_outputs_CD, items), precision=precision
    )
    measured = {name: getattr(report, name) for name in PROBED}
    try:
        report.check()
    except ProbeFailed as error:
        return measured, [str(error).partition("; export the model again")[0]]
    return measured, []
