"""The image stage: every distinct picture of a data set through the encoder, once ever."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from mmsr.bundle.tables import save_table
from mmsr.training.dataset import Dataset
from mmsr.training.features.cache import FeatureCache, Keys, contains
from mmsr.training.features.config import FeaturesConfig
from mmsr.training.features.decode import Decoded, Decoder, decode_all
from mmsr.training.features.image_encoder import ImageEncoder, load_image_encoder
from mmsr.training.features.image_files import ImageFiles, save_index, scan
from mmsr.training.features.inference import encode, full_precision, pick_device
from mmsr.training.features.modality import Encoded, Stage
from mmsr.training.features.progress import progress_bar
from mmsr.training.features.report import Rejected
from mmsr.training.features.specs import ImageEncoderSpec

Picture = tuple[bytes, npt.NDArray[np.uint8]]  # content hash, pixels
Problems = dict[bytes, str]  # by content: two files may hold the same


def image_stage(dataset: Dataset, config: FeaturesConfig, cache: Path, show: bool) -> Stage:
    """Encode what `cache` does not hold yet; without a readable file no encoder is loaded."""
    start_s = time.monotonic()
    index = cache / "image_files.npy"
    files = scan(dataset, index)
    problems: Problems = {}
    result = None
    if len(files.problems) < len(files.paths):
        try:
            result = _encode(files, problems, config, cache, show)
        finally:
            save_index(files, index)
    return Stage(
        items=len(files.file_N),
        result=result,
        seconds=time.monotonic() - start_s,
        rejected=_rejected(dataset, files, problems),
    )


def _encode(
    files: ImageFiles, problems: Problems, config: FeaturesConfig, folder: Path, show: bool
) -> Encoded:
    encoder, spec = load_image_encoder(config)
    cache = FeatureCache(folder / spec.cache_key, spec.dim)
    cached = cache.keys()
    tasks = [(file, files.paths[file]) for file in files.to_decode(cached)]
    workers = config.workers or os.cpu_count() or 1
    encoded = 0
    with progress_bar("images", len(tasks), show and bool(tasks)) as advance:
        answers = _decoded(tasks, spec, cached, workers)
        pictures = _new_pictures(answers, files, problems, advance)
        encoded = _encode_pictures(pictures, encoder, cache, config.image_batch)
    return Encoded(spec=spec, cache=cache, keys_N=files.item_keys(), encoded=encoded)


def _decoded(
    tasks: list[tuple[int, str]], spec: ImageEncoderSpec, cached: Keys, workers: int
) -> Iterator[Decoded]:
    """Decode in worker processes, which find the known contents in a file."""
    if not tasks:
        return
    with TemporaryDirectory(prefix="mmsr-features-") as folder:
        known = Path(folder) / "known.npy"
        save_table(known, cached)
        decoder = Decoder(preprocess=spec.preprocess, known_keys=known)
        yield from decode_all(tasks, decoder, workers)


def _new_pictures(
    answers: Iterable[Decoded],
    files: ImageFiles,
    problems: Problems,
    advance: Callable[[int], None],
) -> Iterator[Picture]:
    """Write down what every file turned out to be; pass on each new content once."""
    seen: set[bytes] = set()
    for answer in answers:
        advance(1)
        if answer.key is None:
            files.problems[answer.file] = answer.problem or "unreadable"
            continue
        files.keys[answer.file] = answer.key
        if answer.problem is not None:
            problems[bytes(files.keys[answer.file])] = answer.problem
        elif answer.pixels is not None and answer.key not in seen:
            seen.add(answer.key)
            yield answer.key, answer.pixels


def _encode_pictures(
    pictures: Iterator[Picture], encoder: ImageEncoder, cache: FeatureCache, batch: int
) -> int:
    """Encode in batches; what was encoded is kept even if this ends early. Returns how many."""
    encoder.to(pick_device())
    count = 0
    try:
        with full_precision():
            for keys, pixels_BHWC in _batches(pictures, batch):
                cache.add(keys, encode(encoder, pixels_BHWC))
                count += len(keys)
    finally:
        cache.flush()
    return count


def _batches(
    pictures: Iterator[Picture], size: int
) -> Iterator[tuple[list[bytes], npt.NDArray[np.uint8]]]:
    batch: list[Picture] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield [key for key, _ in batch], np.stack([pixels for _, pixels in batch])
            batch = []
    if batch:
        yield [key for key, _ in batch], np.stack([pixels for _, pixels in batch])


def _rejected(dataset: Dataset, files: ImageFiles, problems: Problems) -> list[Rejected]:
    """List every item whose file or whose file's content has a problem, in item order."""
    reasons = dict(files.problems)
    if problems:
        bad_F = contains(np.unique(np.array(list(problems), "S32")), files.keys)
        found = {int(file): problems.get(bytes(files.keys[file])) for file in bad_F.nonzero()[0]}
        reasons |= {file: reason for file, reason in found.items() if reason is not None}
    if not reasons:
        return []
    rows = np.flatnonzero(np.isin(files.file_N, list(reasons)))
    items = dataset.item_table(["item_id", "image"]).take(rows).to_pylist()
    return [
        Rejected(item_id=item["item_id"], image=item["image"], reason=reasons[int(file)])
        for item, file in zip(items, files.file_N[rows], strict=True)
    ]
