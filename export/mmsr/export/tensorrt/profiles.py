"""Which sizes an engine is built for. Knows the graphs' dimensions, nothing of TensorRT.

One profile a batch bucket: TensorRT chooses its kernels for a profile's typical sizes, and those
of one request are not those of a hundred.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from mmsr.bundle.manifest import GraphSpec, Manifest
from mmsr.engine.items import CHUNK, bound_rows
from mmsr.export.tensorrt.flavour import TensorRTError

MOST_RESULTS = 1000  # as many as a request may ask for; TensorRT's TopK ends at 3840
TYPICAL_RESULTS = 20
MOST_EXCLUDED = 2048  # rows; a longer list is answered by ONNX Runtime
EXPLAIN_BATCHES = (1, 64, 256)  # one request and its variants: one a history item and a source
ITEM_BATCHES = (1, 64, 1024)
TEXT_LENGTH = 256  # where the graph names no bound


@dataclass(frozen=True, kw_only=True)
class Range:
    """The sizes that a dimension may take, and the one that is built for."""

    least: int
    typical: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.typical <= self.most:
            raise TensorRTError(
                f"sizes {self.least}, {self.typical}, {self.most}; expected 1 <= least <= typical "
                "<= most"
            )


# Dimension name -> its sizes; for an input that is itself a size (k), the input's name.
Profile = Mapping[str, Range]


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The batch sizes to which requests are padded, ascending."""

    sequence: tuple[int, ...] = (1, 8, 32, 128, 256)
    image: tuple[int, ...] = (1, 8, 32)
    text: tuple[int, ...] = (1, 16, 64)

    def __post_init__(self) -> None:
        for sizes in (self.sequence, self.image, self.text):
            if not sizes or sizes[0] < 1 or any(a >= b for a, b in pairwise(sizes)):
                raise TensorRTError(f"batch buckets {list(sizes)}; expected ascending sizes from 1")


def profiles_of(graph: str, manifest: Manifest, buckets: Buckets) -> list[Profile]:
    """Return the profiles of the manifest's graph of that name, one a batch bucket."""
    tables = manifest.tables
    if graph == "sequence":
        most = min(MOST_RESULTS, tables.items)
        fixed = {
            "L": Range(least=1, typical=manifest.max_length, most=manifest.max_length),
            "E": Range(least=1, typical=min(64, MOST_EXCLUDED), most=MOST_EXCLUDED),
            # Fewer rows are bound while items are not available.
            "C": Range(least=CHUNK, typical=bound_rows(tables.items), most=tables.capacity),
            "R": exactly(tables.capacity),
            "W": exactly(tables.input_width),
            "D": exactly(tables.output_width),
            "k": Range(least=1, typical=min(TYPICAL_RESULTS, most), most=most),
        }
        return [{"B": size, **fixed} for size in batches(buckets.sequence)]
    if graph == "explain":
        least, usual, largest = EXPLAIN_BATCHES
        return [
            {
                "B": Range(least=least, typical=usual, most=largest),
                "L": Range(least=1, typical=manifest.max_length, most=manifest.max_length),
                "M": Range(least=1, typical=TYPICAL_RESULTS, most=MOST_RESULTS),
                "C": exactly(tables.capacity),
                "W": exactly(tables.input_width),
                "D": exactly(tables.output_width),
            }
        ]
    if graph == "item":
        rows = Range(least=ITEM_BATCHES[0], typical=ITEM_BATCHES[1], most=ITEM_BATCHES[2])
        return [{"n": rows, "R": exactly(tables.items + 1)}]
    if graph == "image_encoder":
        return [{"B": size} for size in batches(buckets.image)]
    if graph == "text_encoder":
        longest = text_length(manifest)
        length = Range(least=1, typical=min(64, longest), most=longest)
        return [{"B": size, "T": length} for size in batches(buckets.text)]
    raise TensorRTError(f"no sizes are known for the graph {graph!r}")


def exactly(size: int) -> Range:
    """Return the range of one size: an engine belongs to one bundle, whose tables do not grow."""
    return Range(least=size, typical=size, most=size)


def batches(sizes: tuple[int, ...]) -> list[Range]:
    """Return, for each bucket, the batches that are its own: above the bucket before.

    None ends at 1: TensorRT-RTX 1.7.1 fails to build a sequence graph whose batch is 1 for certain
    ("Myelin: CHECK(is_const()) failed").
    """
    return [
        Range(least=before + 1, typical=size, most=max(size, 2))
        for before, size in zip((0, *sizes), sizes, strict=False)
    ]


def shape_of(spec: GraphSpec, name: str, profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Return the least, typical and most shape of the graph's input `name`."""
    tensor = next((t for t in spec.inputs if t.name == name), None)
    if tensor is None:
        raise TensorRTError(f"{spec.file}: input {name!r} is not in the manifest")
    unknown = [d for d in tensor.shape if isinstance(d, str) and d not in profile]
    if unknown:
        raise TensorRTError(
            f"{spec.file}: input {name!r} varies in {unknown[0]!r}, for which the profile has no "
            f"sizes; it has: {', '.join(profile)}"
        )
    ranges = [profile[d] if isinstance(d, str) else exactly(d) for d in tensor.shape]
    return (
        tuple(r.least for r in ranges),
        tuple(r.typical for r in ranges),
        tuple(r.most for r in ranges),
    )


def text_length(manifest: Manifest) -> int:
    """Return how many tokens a text has at most."""
    spec = manifest.features.get("text") or {}
    return int(spec.get("max_tokens", TEXT_LENGTH))
