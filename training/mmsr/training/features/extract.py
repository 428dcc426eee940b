"""Makes the features of a data set, all of it: DATA/features, from DATA.

image.npy, text.npy              float32 [N, D]; row i is item row i + 1, zeros where missing
image_present.npy, text_…        bool [N]
features.json                    encoders and sizes; written last, so its presence says: complete
report.json, rejected.jsonl      counts, and every image that could not be used
cache/                           features by content; safe to delete, dear to make again; only
                                 `prune` takes out what is not used any more
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from mmsr.bundle.files import write_json
from mmsr.training.dataset import Dataset
from mmsr.training.features.config import FeaturesConfig, FeaturesError
from mmsr.training.features.images import image_stage
from mmsr.training.features.modality import write_modality
from mmsr.training.features.prune import may_prune, prune_cache
from mmsr.training.features.report import FeaturesReport
from mmsr.training.features.store import FEATURES_FILE, FEATURES_FORMAT, features_folder
from mmsr.training.features.texts import text_stage


def extract_features(
    dataset: Dataset, config: FeaturesConfig, *, show_progress: bool = False, prune: bool = False
) -> FeaturesReport:
    """Encode what is not in the cache, then write the matrices of all items.

    With `prune`, features that no item has now leave the cache.

    An image that cannot be used is reported and counts as missing. Raises `FeaturesError` when
    an encoder cannot be had; what was encoded until then, or until a kill, stays in the cache.
    """
    folder = features_folder(dataset)
    with _locked(folder):
        _sweep(folder)
        cache = folder / "cache"
        image_found = image_stage(dataset, config, cache, show_progress)
        text_found = text_stage(dataset, config, cache, show_progress)
        # From here until the end the matrices may disagree, and nobody may take them for whole.
        (folder / FEATURES_FILE).unlink(missing_ok=True)
        image, image_report = write_modality(folder, "image", image_found)
        text, text_report = write_modality(folder, "text", text_found)
        report = FeaturesReport(image=image_report, text=text_report)
        report.save(folder)
        description = {
            "format": FEATURES_FORMAT,
            "data_hash": dataset.info.content_hash,
            "settings": config.shaping(),
            "image": image,
            "text": text,
        }
        write_json(folder / FEATURES_FILE, description)
        if prune and may_prune(image_found):
            used = [found.result for found in (image_found, text_found) if found.result]
            report = replace(report, freed_bytes=prune_cache(cache, used))
    return report


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock of a killed process is gone with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            raise FeaturesError(
                f"{folder} is being written by another `mmsr-train features`; wait for it to end"
            ) from None
        yield


def _sweep(folder: Path) -> None:
    """Remove what a killed run left half written."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)
