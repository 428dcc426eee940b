"""Made-up features for prepared data, in the documented form: no encoder has to be run."""

import json
from pathlib import Path

import numpy as np

from mmsr.training.dataset import open_dataset
from mmsr.training.features.store import FEATURES_FILE, FEATURES_FORMAT

WIDTHS = {"image": 6, "text": 5}


def write_features(folder: Path, *modalities: str, seed: int = 0) -> Path:
    """Write features of some modalities beside the data in `folder`; return `folder`.

    Every seventh item lacks each.
    """
    info = open_dataset(folder).info
    random = np.random.default_rng(seed)
    target = folder / "features"
    target.mkdir()
    described: dict[str, object] = {"image": None, "text": None}
    for modality in modalities:
        present = np.arange(info.items) % 7 != 3
        values = random.normal(size=(info.items, WIDTHS[modality])) * present[:, None]
        np.save(target / f"{modality}.npy", values.astype(np.float32))
        np.save(target / f"{modality}_present.npy", present)
        described[modality] = {"dim": WIDTHS[modality], "spec": {"encoder": "made up"}}
    header = {"format": FEATURES_FORMAT, "data_hash": info.content_hash, "settings": {}}
    (target / FEATURES_FILE).write_text(json.dumps(header | described))
    return folder
