"""What an engine is asked before it is kept, made of the bundle alone, the same each time.

Not stored at export, on purpose. The gate has compared the bundle's fp32 graphs with PyTorch, the
encoders on the shop's own pictures and texts, so ONNX Runtime's answer to *any* input is the right
one here, and what is left to prove is that an engine computes the same function. For that made-up
pictures do what real ones would: among smooth ones, which have a photograph's spectrum, are black,
white, noise and a checkerboard. Measured with VGG-16 as trained, in halves: its features are off
by up to .0009 of their length, of real posters by .0006; and they lie .71 of it apart, those of
posters .68. So bundles that were published before can be proven too, no customer's picture leaves
the training host, and there is one file less that a gate would have to prove. Texts are the
catalogue's own, through the bundle's tokenizer, beside drawn token ids up to the longest; items are
those of the catalogue with the features that the encoders give. Imports no torch.
"""

# S samples, H side of a picture, T tokens, n items, N items of the catalogue, F features

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mmsr.bundle.compose import compose_text
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.encoders import IMAGE_ENCODER, TEXT_ENCODER, TOKENIZER, count_tokens, stacked
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.runners.base import AnyArray
from mmsr.export.tensorrt.profiles import text_length

SAMPLES = 32
OCTAVES = (2, 4, 8, 16, 32, 64)  # cells along a side; half the contrast from one to the next
DRAWN_TEXTS = 8  # of token ids, from one to the longest
SEED = 0

Batch = dict[str, AnyArray]


class Samples:
    """The samples of one bundle. `feature_of` gives an encoder's features [S, F] of its own."""

    def __init__(self, bundle: OpenedBundle, feature_of: Callable[[str], AnyArray]) -> None:
        self._bundle = bundle
        self._feature_of = feature_of

    def of(self, graph: str) -> list[Batch]:
        """Return batches of the inputs, but the tables, of an encoder or of the item graph."""
        if graph == IMAGE_ENCODER:
            (pixels,) = self._bundle.manifest.graphs[graph].inputs
            return [{pixels.name: pictures(int(pixels.shape[1]))}]
        if graph == TEXT_ENCODER:
            return self._texts()
        return [self._items(self._bundle.manifest.graphs[graph])]

    def _texts(self) -> list[Batch]:
        longest = text_length(self._bundle.manifest)
        random = np.random.default_rng(SEED)
        lengths = np.linspace(1, longest, DRAWN_TEXTS).astype(int)
        known = count_tokens(self._bundle.folder / TOKENIZER)
        drawn = _texts_of([random.integers(0, known, length).tolist() for length in lengths])
        real = self._tokenized()
        return [_texts_of([ids[:longest] for ids in real]), drawn] if len(real) > 1 else [drawn]

    def _tokenized(self) -> list[list[int]]:
        """Return the token ids of some items' texts, no two alike."""
        from tokenizers import Tokenizer

        catalogue, spec = self._bundle.catalogue, self._bundle.manifest.features.get("text") or {}
        fields = spec.get("text_fields", ("title", "categories"))
        tokenizer = Tokenizer.from_file(str(self._bundle.folder / TOKENIZER))
        tokenizer.no_padding()
        texts = dict.fromkeys(
            compose_text(
                {"title": catalogue.titles[place], "categories": catalogue.categories[place]},
                fields,
            )
            for place in _places(len(catalogue), 2 * SAMPLES)
        )
        encoded = tokenizer.encode_batch([text for text in texts if text][:SAMPLES])
        return [tokens.ids for tokens in encoded if tokens.ids]

    def _items(self, spec: GraphSpec) -> Batch:
        """Return items with and without a trained id, each modality missing in some of them."""
        items = self._bundle.manifest.tables.items
        rows = 1 + _places(items, SAMPLES)
        batch: Batch = {"id_row": np.where(np.arange(len(rows)) % 4 == 0, 0, rows)}
        widths = {t.name: t.shape[1] for t in spec.inputs if f"{t.name}_present" in _names(spec)}
        for number, (modality, width) in enumerate(widths.items()):
            values, known = self._content(modality, rows - 1, int(width))
            batch[modality] = values
            batch[f"{modality}_present"] = known & (np.arange(len(rows)) % 5 != number)
        return batch

    def _content(
        self, modality: str, places_n: npt.NDArray[np.int64], width: int
    ) -> tuple[AnyArray, AnyArray]:
        """Return a modality's features [n, F] and of which items there are any [n]."""
        values_nF = np.zeros((len(places_n), width), np.float32)
        if modality == "category":
            names = {n: i for i, n in enumerate(self._bundle.manifest.features["categories"])}
            for line, place in enumerate(places_n.tolist()):
                listed = self._bundle.catalogue.categories[place]
                values_nF[line, [names[name] for name in listed if name in names]] = 1.0
            return values_nF, values_nF.sum(axis=1) > 0
        graph = f"{modality}_encoder"
        if graph not in self._bundle.manifest.graphs:
            return values_nF, np.zeros(len(places_n), np.bool_)
        feature_SF = self._feature_of(graph)
        chosen_n = np.arange(len(places_n)) % len(feature_SF)
        return feature_SF[chosen_n], np.ones(len(places_n), np.bool_)


def pictures(side: int) -> npt.NDArray[np.uint8]:
    """Return uint8 [S, H, H, 3]: smooth ones, and four that go to the ends of the range."""
    random = np.random.default_rng(SEED)
    checks = (np.indices((side, side)).sum(axis=0) % 2 * 255)[..., None].repeat(3, axis=2)
    noise = random.integers(0, 256, (side, side, 3))
    extremes = [np.zeros((side, side, 3)), np.full((side, side, 3), 255), checks, noise]
    smooth = [_smooth(side, random) for _ in range(SAMPLES - len(extremes))]
    return np.stack([*smooth, *extremes]).astype(np.uint8)


def _smooth(side: int, random: np.random.Generator) -> AnyArray:
    """Return a picture [H, H, 3] whose contrast falls with its fineness, as a photograph's does."""
    canvas = np.zeros((side, side, 3)) + random.uniform(-1, 1, 3)
    for number, cells in enumerate(OCTAVES):
        # The values of a coarse grid, linearly between them.
        place = np.linspace(0, cells - 1, side)
        low = np.minimum(place.astype(int), cells - 2)
        weight = (place - low)[:, None]
        stretch = np.zeros((side, cells))
        stretch[np.arange(side), low] = 1 - weight[:, 0]
        stretch[np.arange(side), low + 1] = weight[:, 0]
        grid = random.normal(scale=0.5**number, size=(cells, cells, 3))
        canvas += np.einsum("ha,wb,abc->hwc", stretch, stretch, grid, optimize=True)
    return np.clip(127.5 + 64.0 * canvas, 0, 255)


def _texts_of(ids: list[list[int]]) -> Batch:
    rows = [np.array(line, np.int64) for line in ids]
    return {
        "input_ids": stacked(rows),
        "attention_mask": stacked([np.ones_like(row) for row in rows]),
    }


def _places(items: int, most: int) -> npt.NDArray[np.int64]:
    """Return places of the catalogue from 0, evenly spread."""
    return np.unique(np.linspace(0, items - 1, min(items, most)).astype(np.int64))


def _names(spec: GraphSpec) -> set[str]:
    return {tensor.name for tensor in spec.inputs}
