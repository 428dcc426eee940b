"""Content to table rows by the bundle's own item.onnx. Knows nothing of ids, slots or storage."""

# n items of one call, F features of a modality, W input columns, D output columns, N trained items

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmsr.bundle.compose import with_brand
from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import Manifest
from mmsr.bundle.tables import map_table
from mmsr.engine.catalogue.records import Content, Floats
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.onnx import OnnxRunner, open_onnx

IDS = "tables/ids.npy"
ROWS_AT_ONCE = 1024
PRESENT = "_present"
LARGEST = 1e15  # of a row: squares and sums of such numbers are still numbers
log = logging.getLogger(__name__)


class ItemContent(NamedTuple):
    """What the model reads of one item."""

    trained_row: int  # of ids.npy; 0: an item without a trained id
    categories: tuple[str, ...]
    features: Mapping[str, Floats]  # by modality; what is absent is not there


class ProjectedRows(NamedTuple):
    """The rows of n items in every table."""

    inputs_nW: Floats
    outputs_nD: Floats
    content_nD: Floats  # the output vectors as if nobody had bought the items


class Projector:
    """The item graph of an opened bundle; one call at a time."""

    def __init__(self, bundle: OpenedBundle) -> None:
        manifest = bundle.manifest
        self._bundle = bundle
        self._vocabulary = vocabulary_of(manifest)
        self._widths = modality_widths(manifest)
        self._runner: OnnxRunner | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model reads of items beside their ids."""
        return tuple(self._widths)

    def open(self) -> None:
        """Load the graph; `BundleError` if the bundle has none that fits."""
        bundle = self._bundle
        spec = bundle.manifest.graphs.get("item")
        if spec is None or IDS not in bundle.manifest.files:
            raise BundleError(
                f"{bundle.folder} holds no item.onnx, which a catalogue that lives needs; export "
                "the model again, or serve without --catalogue"
            )
        self._runner = open_onnx(bundle.folder / spec.file, spec, threads=1)
        [width] = [tensor.shape[1] for tensor in spec.inputs if tensor.name == "id_table"]
        shape = (bundle.manifest.tables.items + 1, int(width))
        self._runner.bind("id_table", map_table(bundle.folder / IDS, shape))

    def categories(self, content: Content) -> tuple[str, ...]:
        """Return an item's categories as the data were prepared: with its brand's, if trained."""
        return with_brand(content.categories, content.brand, self._vocabulary)

    def known(self, item: ItemContent) -> tuple[str, ...]:
        """Return which modalities the model has of an item."""
        listed = any(name in self._vocabulary for name in item.categories)
        return tuple(
            modality
            for modality in self._widths
            if (listed if modality == "category" else modality in item.features)
        )

    def project(self, items: Sequence[ItemContent]) -> ProjectedRows:
        """Return the rows of some items, at least one."""
        inputs_nW, outputs_nD = self._run(items)
        content_nD = outputs_nD
        trained = [place for place, item in enumerate(items) if item.trained_row]
        if trained and self._bundle.content_CD is not None:
            unknown = [items[place]._replace(trained_row=0) for place in trained]
            content_nD = outputs_nD.copy()
            content_nD[trained] = self._run(unknown)[1]
        return ProjectedRows(inputs_nW, outputs_nD, content_nD)

    def _run(self, items: Sequence[ItemContent]) -> tuple[Floats, Floats]:
        assert self._runner is not None
        inputs, outputs = [], []
        for begin in range(0, len(items), ROWS_AT_ONCE):
            found = self._runner.run(self._batch(items[begin : begin + ROWS_AT_ONCE]))
            inputs.append(found["item_inputs"])
            outputs.append(found["item_outputs"])
        return self._numbers(np.concatenate(inputs), np.concatenate(outputs))

    def _numbers(self, inputs_nW: Floats, outputs_nD: Floats) -> tuple[Floats, Floats]:
        """Empty the rows that are no numbers: scored with the others, one would spoil all."""
        fits_n = np.ones(len(inputs_nW), np.bool_)
        for rows in (inputs_nW, outputs_nD):
            fits_n &= (np.abs(rows) <= LARGEST).all(axis=1)
        if not fits_n.all():
            inputs_nW, outputs_nD = (
                np.where(fits_n[:, None], r, np.float32(0)) for r in (inputs_nW, outputs_nD)
            )
            log.error(
                "bundle %s makes no numbers of the content of %d items; they score 0",
                self._bundle.manifest.bundle_id,
                np.count_nonzero(~fits_n),
            )
        return inputs_nW, outputs_nD

    def close(self) -> None:
        """Free the graph."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def _batch(self, items: Sequence[ItemContent]) -> dict[str, AnyArray]:
        batch: dict[str, AnyArray] = {
            "id_row": np.array([item.trained_row for item in items], np.int64)
        }
        for modality, width in self._widths.items():
            features_nF = np.zeros((len(items), width), np.float32)
            for line, item in zip(features_nF, items, strict=True):
                self._fill(line, modality, item)
            batch[modality] = features_nF
            batch[modality + PRESENT] = np.array([modality in self.known(item) for item in items])
        return batch

    def _fill(self, line_F: Floats, modality: str, item: ItemContent) -> None:
        if modality == "category":
            for name in item.categories:
                if name in self._vocabulary:
                    line_F[self._vocabulary[name]] = 1.0
        elif modality in item.features:
            line_F[:] = item.features[modality]


def vocabulary_of(manifest: Manifest) -> dict[str, int]:
    """Return the place of each trained category in the multi-hot vector."""
    names: list[str] = manifest.features.get("categories") or []
    return {name: place for place, name in enumerate(names)}


def modality_widths(manifest: Manifest) -> dict[str, int]:
    """Return how many features the item graph reads of each modality."""
    spec = manifest.graphs.get("item")
    if spec is None:
        return {}
    names = {tensor.name for tensor in spec.inputs}
    return {
        tensor.name: int(tensor.shape[1])
        for tensor in spec.inputs
        if tensor.name + PRESENT in names
    }
