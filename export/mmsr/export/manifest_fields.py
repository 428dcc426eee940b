"""What a manifest tells the server to do, beside what the run was trained with.

Graphs and tables can all be right, and yet every history is cut, every new picture resized wrongly
or its categories mistaken, if the manifest says so.
"""

import json
from typing import Any

from mmsr.bundle.manifest import Manifest
from mmsr.training.config import recipe_to_dict
from mmsr.training.features.specs import without_place
from mmsr.training.run import TrainedRun


def features_of(run: TrainedRun) -> dict[str, Any]:
    """Return `features`: each encoder's description without its place, and the categories."""
    specs = {modality: without_place(spec) for modality, spec in run.info.features.items()}
    return specs | {"categories": run.dataset.info.categories}


def wrong_fields(run: TrainedRun, manifest: Manifest) -> list[str]:
    """Return the manifest's fields that are not the run's; the server obeys each of them."""
    recipe = run.info.recipe
    wanted: dict[str, Any] = {
        "max_length": recipe.model.max_length,
        "exclude_seen": recipe.serving.exclude_seen,
        "features": features_of(run),
    }
    wrong = [name for name, value in wanted.items() if not _same(getattr(manifest, name), value)]
    # A release after the one that exported knows more keys, not fewer.
    model = _plain(recipe_to_dict(recipe)["model"])
    found = _plain(manifest.model)
    if not found or any(model.get(key) != value for key, value in found.items()):
        wrong.append("model")
    return wrong


def _same(one: Any, other: Any) -> bool:
    return bool(_plain(one) == _plain(other))


def _plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return json.loads(json.dumps(value))
