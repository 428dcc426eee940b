"""What must hold of a repository, and of a Triton model repository, at any moment."""

import json
from pathlib import Path

from mmsr.bundle.manifest import load_manifest, verify_files
from mmsr.bundle.repository import Repository


def assert_whole(repository: Repository) -> None:
    """Every listed bundle is whole, every label names one of them."""
    for bundle_id in repository.ids():
        folder = repository.path(bundle_id)
        manifest = load_manifest(folder)
        assert manifest.bundle_id == bundle_id
        verify_files(folder, manifest)
    for label in repository.label_names():
        assert repository.resolve(label).is_dir()


def remains(repository: Repository) -> list[str]:
    """Return what unfinished work has left behind."""
    found = [path for path in repository.root.iterdir() if path.name.startswith((".st", ".tr"))]
    return [path.name for path in [*found, *repository.labels.glob(".*")]]


def folders(folder: Path) -> list[str]:
    """Return what a Triton that polls `folder` looks at."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def assert_triton_whole(target: Path) -> None:
    """Every model can be loaded: its configuration, its warm-up and each of its versions."""
    for model in [target / name for name in folders(target)] if target.is_dir() else []:
        assert (model / "config.pbtxt").read_text().startswith(f'name: "{model.name}"')
        numbers = [name for name in folders(model) if name.isdigit()]
        assert numbers
        for number in numbers:
            made_from = json.loads((model / number / "made_from.json").read_text())
            assert {"model.onnx", "made_from.json"} <= {p.name for p in (model / number).iterdir()}
            assert made_from["bundle_id"]
        if model.name != "image_encoder":  # whose warm-up is zeros, without a file
            assert list((model / "warmup").iterdir())
