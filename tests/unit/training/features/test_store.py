import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mmsr.training.dataset import Dataset
from mmsr.training.features.config import FeaturesError
from mmsr.training.features.store import NoFeaturesError, naming_recipe, open_features


@pytest.fixture
def dataset(make_shop: Callable[..., Dataset]) -> Dataset:
    """Two items, of which the first has an image feature; no texts."""
    dataset = make_shop([{}, {}])
    folder = dataset.folder / "features"
    folder.mkdir()
    np.save(folder / "image.npy", np.array([[1, 2, 3], [0, 0, 0]], np.float32))
    np.save(folder / "image_present.npy", np.array([True, False]))
    describe(dataset)
    return dataset


def describe(dataset: Dataset, **changes: object) -> None:
    image = {"spec": {"encoder": "vgg16"}, "dim": 3, "present": 1}
    raw = {"format": 1, "data_hash": "hash-1", "settings": {}, "image": image, "text": None}
    (dataset.folder / "features" / "features.json").write_text(json.dumps(raw | changes))


def test_features_are_opened(dataset: Dataset) -> None:
    found = open_features(dataset)
    assert found.text is None
    assert found.image is not None
    assert found.image.spec == {"encoder": "vgg16"}
    assert (found.image.dim, found.image.present_N.tolist()) == (3, [True, False])
    assert isinstance(found.image.values_ND, np.memmap)
    assert found.image.values_ND[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d.folder / "features" / "features.json").unlink(), "has no features"),
        (lambda d: describe(d, format=2), "is not of format 1"),
        (lambda d: describe(d, data_hash="hash-0"), "the data have changed since"),
        (lambda d: describe(d, image={}), "is damaged"),
        (lambda d: (d.folder / "features" / "image.npy").unlink(), "is damaged"),
        (lambda d: (d.folder / "features" / "image.npy").write_bytes(b"short"), "is damaged"),
        (
            lambda d: np.save(d.folder / "features" / "image.npy", np.zeros((2, 4), np.float32)),
            "not (2, 3)",
        ),
        (
            lambda d: np.save(d.folder / "features" / "image_present.npy", np.zeros(3, np.bool_)),
            "image_present.npy is bool (3,)",
        ),
    ],
)
def test_what_is_missing_stale_or_damaged_is_told_with_the_command_to_run(
    dataset: Dataset, damage: Callable[[Dataset], object], message: str
) -> None:
    damage(dataset)
    with pytest.raises(FeaturesError) as error:
        open_features(dataset)
    assert message in str(error.value)
    assert str(error.value).endswith(f"; run: mmsr-train features {dataset.folder}")


READER = """
import sys
sys.modules["torch"] = None
from pathlib import Path
from mmsr.training.dataset import open_dataset
from mmsr.training.features.store import open_features
print(open_features(open_dataset(Path(sys.argv[1]))).image.dim)
"""


def test_reading_needs_no_torch(dataset: Dataset) -> None:
    command = [sys.executable, "-c", READER, str(dataset.folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "3\n"


def test_the_command_names_the_recipe_and_can_be_pasted(tmp_path: Path) -> None:
    data, recipe = tmp_path / "my shop", tmp_path / "a recipe.toml"
    with pytest.raises(NoFeaturesError) as caught, naming_recipe(recipe):
        raise NoFeaturesError("no features", data)
    command = str(caught.value).removeprefix("no features; run: ")
    assert shlex.split(command) == ["mmsr-train", "features", str(data), "--config", str(recipe)]
