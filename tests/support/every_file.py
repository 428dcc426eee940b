"""A small bundle that has every file a bundle may have."""

from dataclasses import replace
from pathlib import Path

from support.tiny_bundle import Shop, Sizes, make_twin, seal, write_files
from support.tiny_explain import explain_graph, explained_manifest
from support.tiny_live import live_manifest, write_live_files

from mmsr.bundle.repository import Repository

SIZES = Sizes(items=60, probes=8)


def publish_every_file(root: Path, seed: int = 0, label: str | None = "stable") -> Shop:
    """Publish a bundle that explains, encodes and takes new items, in the repository at `root`."""
    twin = make_twin(SIZES, seed)
    repository = Repository(root)
    repository.create()
    with repository.stage() as folder:
        write_files(folder, twin, SIZES)
        (folder / "explain.onnx").write_bytes(explain_graph(SIZES.width))
        manifest = live_manifest(SIZES, write_live_files(folder, SIZES), encoder_seed=0)
        explained = explained_manifest(SIZES)
        graphs = {**manifest.graphs, "explain": explained.graphs["explain"]}
        seal(folder, replace(manifest, graphs=graphs, model=explained.model))
        bundle_id = repository.publish(folder, label)
    return Shop(root=root, folder=repository.path(bundle_id), sizes=SIZES, twin=twin)
