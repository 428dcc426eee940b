"""A process that keeps writes in a store and prints the version of each when it is acknowledged."""

import sys
from pathlib import Path

from mmsr.engine.catalogue.records import Content, FeatureKey, Floats, Record, Write
from mmsr.engine.catalogue.store import SqliteStore

ITEMS_PER_COMMIT = 3


def writes_of(version: int) -> list[Write]:
    """Return what the commit of that version holds; anyone can tell it again."""
    return [
        Write(
            Record(item_id, version, Content(title=f"{item_id} at {version}"), written_s=version),
            {FeatureKey("image", "encoder", b"key"): vector_of(version)},
            b"image" * 100,
        )
        for item_id in (f"item-{(version + n) % 50}" for n in range(ITEMS_PER_COMMIT))
    ]


def vector_of(version: int) -> Floats:
    """Return 64 numbers that all say which version wrote them."""
    import numpy as np

    return np.full(64, version, np.float32)


def main(path: Path) -> None:
    """Write until killed."""
    store = SqliteStore(path, image_bytes=1 << 20)
    store.open()
    version = store.version()
    sys.stdout.write(f"{version}\n")
    while True:
        version += 1
        store.commit(writes_of(version), version)
        sys.stdout.write(f"{version}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
