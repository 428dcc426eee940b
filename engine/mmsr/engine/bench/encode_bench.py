"""`mmsr-bench encode`, without its flags: items a second through a bundle's encoders.

Whole: from a picture's file or a text to its feature. Ready: the graph alone on tensors that lie
ready, which is the runner's own limit. What is between them is decoding, resizing and tokenising.
"""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import Manifest, load_manifest
from mmsr.bundle.preprocess import ImagePreprocess, load_pixels
from mmsr.bundle.repository import Repository
from mmsr.engine.bench.engine_bench import Progress, Tick
from mmsr.engine.bench.machine import describe_environment
from mmsr.engine.bench.plan import BenchError
from mmsr.engine.bench.report import RunnerReport
from mmsr.engine.runners.base import AnyArray, Runner
from mmsr.engine.runners.onnx import open_onnx

IMAGE, TEXT = "image_encoder", "text_encoder"
TOKENIZER = "tokenizer.json"
PICTURE_SIZE = (500, 500)  # pixels of a made-up picture: a shop's product photo
DIFFERENT = 32  # pictures or texts, taken in turn
PICTURE_FILES = ("*.jpg", "*.jpeg", "*.png", "*.webp")

Prepare = Callable[[Sequence[Any]], dict[str, AnyArray]]  # items in, the graph's inputs out


@dataclass(frozen=True, kw_only=True)
class EncodeBench:
    """What to measure."""

    repository: Path
    label: str
    batches: Sequence[int]
    images: Path | None  # a folder of pictures; None: made up
    duration_s: float  # of each encoder, batch size and way
    threads: int

    def __post_init__(self) -> None:
        if not 0.05 <= self.duration_s <= 3600:
            raise BenchError(f"duration-s is {self.duration_s:g}; expected 0.05 to 3600")
        if self.threads < 1:
            raise BenchError(f"threads is {self.threads}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class EncodeSummary:
    """One encoder at one batch size."""

    encoder: str
    runner: str
    batch: int
    items: str  # what was encoded
    whole_per_s: float
    ready_per_s: float
    share: float  # whole over ready: 1 where preparing costs nothing
    whole_batch_ms: float  # mean
    ready_batch_ms: float


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A graph of the bundle and what it is fed with."""

    name: str
    runner: Runner
    items: list[Any]
    what: str
    prepare: Prepare


def measure_encode(bench: EncodeBench, progress: Progress) -> RunnerReport:
    """Measure every encoder at every batch size; an interrupt keeps what was measured."""
    environment = describe_environment()
    folder = Repository(bench.repository).resolve(bench.label)
    runs: list[EncodeSummary] = []
    interrupted = False
    try:
        for encoder in open_encoders(bench, folder):
            for batch in bench.batches:
                runs.append(time_encoder(encoder, batch, bench.duration_s, progress))
            encoder.runner.close()
    except KeyboardInterrupt:
        interrupted = True
    if not runs:
        raise BenchError("interrupted before anything was measured")
    return RunnerReport(
        scenario="encode",
        environment=environment,
        bundle_id=folder.name,
        runs=runs,
        interrupted=interrupted,
        findings={"threads": bench.threads, "duration_s": bench.duration_s},
    )


def open_encoders(bench: EncodeBench, folder: Path) -> list[Encoder]:
    """Load the bundle's encoders; `BenchError` if it has none."""
    manifest = load_manifest(folder)
    found = []
    if IMAGE in manifest.graphs:
        found.append(_image_encoder(bench, folder, manifest))
    if TEXT in manifest.graphs:
        found.append(_text_encoder(bench, folder, manifest))
    if not found:
        raise BenchError(f"bundle {folder.name} has no encoders: its items have no image, no text")
    return found


def _open(bench: EncodeBench, folder: Path, manifest: Manifest, name: str) -> Runner:
    spec = manifest.graphs[name]
    return open_onnx(folder / spec.file, spec, threads=bench.threads)


def _image_encoder(bench: EncodeBench, folder: Path, manifest: Manifest) -> Encoder:
    spec = ImagePreprocess(**manifest.features["image"]["preprocess"])
    runner = _open(bench, folder, manifest, IMAGE)
    (pixels,) = runner.spec.inputs

    def prepare(files: Sequence[bytes]) -> dict[str, AnyArray]:
        return {pixels.name: np.stack([load_pixels(data, spec) for data in files])}

    if bench.images is None:
        what = f"made-up JPEG files of {PICTURE_SIZE[0]} x {PICTURE_SIZE[1]}"
        return Encoder(
            name=IMAGE, runner=runner, items=made_up_pictures(), what=what, prepare=prepare
        )
    files = picture_files(bench.images)
    what = f"{len(files)} files of {bench.images.name}"
    items = [path.read_bytes() for path in files]
    return Encoder(name=IMAGE, runner=runner, items=items, what=what, prepare=prepare)


def picture_files(folder: Path) -> list[Path]:
    """Return some pictures of a folder; `BenchError` if there are none."""
    found = sorted(path for pattern in PICTURE_FILES for path in folder.rglob(pattern))
    if not found:
        raise BenchError(f"images: {folder} holds none of {', '.join(PICTURE_FILES)}")
    return found[:DIFFERENT]


def made_up_pictures() -> list[bytes]:
    """Return JPEG files of smooth random pictures, which compress about as photos do."""
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for _ in range(DIFFERENT):
        small = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize(PICTURE_SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def _text_encoder(bench: EncodeBench, folder: Path, manifest: Manifest) -> Encoder:
    from tokenizers import Tokenizer

    catalogue = load_catalogue(folder)
    texts = [
        " ".join(filter(None, (title, *categories))) or item_id
        for item_id, title, categories in zip(
            catalogue.item_ids, catalogue.titles, catalogue.categories, strict=True
        )
    ]
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def prepare(chosen: Sequence[str]) -> dict[str, AnyArray]:
        encoded = tokenizer.encode_batch(list(chosen))
        return {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
        }

    return Encoder(
        name=TEXT,
        runner=_open(bench, folder, manifest, TEXT),
        items=texts[:DIFFERENT],
        what="titles and categories of the catalogue",
        prepare=prepare,
    )


def time_encoder(
    encoder: Encoder, batch: int, duration_s: float, progress: Progress
) -> EncodeSummary:
    """Encode from the files on and on tensors that lie ready, in turn, `duration_s` of each."""
    turns = cycle(encoder.items)
    ready = encoder.prepare(list(islice(turns, batch)))
    encoder.runner.run(ready)  # the first call lays out memory

    def whole() -> None:
        encoder.runner.run(encoder.prepare(list(islice(turns, batch))))

    with progress(f"{encoder.name}, batch {batch}", 2 * duration_s) as tick:
        whole_s, ready_s = in_turn(whole, lambda: encoder.runner.run(ready), duration_s, tick)
    return EncodeSummary(
        encoder=encoder.name,
        runner=encoder.runner.name,
        batch=batch,
        items=encoder.what,
        whole_per_s=batch / whole_s,
        ready_per_s=batch / ready_s,
        share=ready_s / whole_s,
        whole_batch_ms=whole_s * 1e3,
        ready_batch_ms=ready_s * 1e3,
    )


def in_turn(
    one: Callable[[], object], other: Callable[[], object], duration_s: float, tick: Tick
) -> tuple[float, float]:
    """Call both A B B A … for about `duration_s` each; return the mean seconds of a call of each.

    What a machine does slowly falls on both.
    """
    spent_s, calls = [0.0, 0.0], 0
    while calls < 2 or sum(spent_s) < 2 * duration_s:
        pairs = ((0, one), (1, other))
        for side, call in pairs if calls % 2 == 0 else reversed(pairs):
            began_s = time.perf_counter()
            call()
            spent_s[side] += time.perf_counter() - began_s
        calls += 1
        tick(sum(spent_s))
    return spent_s[0] / calls, spent_s[1] / calls
