"""Publishes, promotes, rolls back and prunes again and again until it is killed.

Run as a process: `publisher.py REPO SEED [ROUNDS]`. Its bundles are tiny, so that a kill meets
every step often. Some of them are the same again and again, with other metrics.
"""

import random
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mmsr.bundle.errors import BundleError
from mmsr.bundle.manifest import GraphSpec, Manifest, TableSizes, describe_files
from mmsr.bundle.repository import Repository
from mmsr.export.prune import prune

LABELS = ("stable", "canary")


def write_bundle(folder: Path, content: bytes, ndcg: float) -> None:
    """Write a bundle of three small files."""
    (folder / "tables").mkdir()
    for name in ("sequence.onnx", "catalogue.parquet", "tables/ids.npy"):
        (folder / name).write_bytes(content)
    Manifest(
        max_length=5,
        exclude_seen=True,
        tables=TableSizes(items=1, capacity=4, input_width=3, output_width=3),
        graphs={"sequence": GraphSpec(file="sequence.onnx", inputs=(), outputs=())},
        model={},
        features={},
        files=describe_files(folder),
        metrics={"test.masked.ndcg@10": ndcg},
    ).save(folder)


def publish(repository: Repository, content: bytes, ndcg: float, label: str | None) -> str:
    """Stage and publish one bundle."""
    with repository.stage() as folder:
        write_bundle(folder, content, ndcg)
        return repository.publish(folder, label)


def work(repository: Repository, seed: int) -> Iterator[None]:
    """Do one thing after another for ever; each step is one."""
    choose = random.Random(seed)
    for step in count():
        content = b"same" if choose.random() < 0.3 else f"{seed} {step}".encode()
        bundle_id = publish(repository, content, choose.random(), choose.choice((None, "canary")))
        try:
            repository.promote(bundle_id, "stable")
            if choose.random() < 0.2:
                repository.rollback(choose.choice(LABELS))
        except BundleError:  # another process has pruned it meanwhile, or never moved the label
            pass
        if choose.random() < 0.3:
            prune(repository, 3, dry_run=False)
        yield


def main() -> None:
    """Work; say a line after each step."""
    repository, seed = Repository(Path(sys.argv[1])), int(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else None
    for step, _ in enumerate(work(repository, seed), 1):
        sys.stdout.write(f"{step}\n")
        sys.stdout.flush()
        if step == rounds:
            return


if __name__ == "__main__":
    main()
