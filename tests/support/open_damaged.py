"""A process that opens bundles whose damaged files bear the right hashes, as a server does.

`python open_damaged.py BUNDLE OTHER FOLDER FIRST LAST`: a line of JSON before each, and after.
Whoever can write into a repository can write such a bundle; so can an exporter with a fault.
"""

import json
import random
import shutil
import sys
from pathlib import Path

from support.damage import CONTENT, empty, files_of, linked
from support.tiny_bundle import seal

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.manifest import MANIFEST, load_manifest
from mmsr.engine.deployment import warm_up
from mmsr.engine.model import RowRequest
from mmsr.engine.proven import open_proven


def damaged(good: Path, other: Path, folder: Path, seed: int) -> str:
    """Write a damaged bundle with hashes that are right; say what is wrong with it."""
    choose = random.Random(seed)
    linked(good, folder)
    names = [name for name in files_of(good) if name != MANIFEST]
    name, damage = choose.choice(names), choose.choice((*CONTENT, empty))
    instead = choose.choice([good, other]) / choose.choice(names)
    done = damage(folder / name, instead, choose)
    manifest = load_manifest(folder)
    (folder / MANIFEST).unlink()
    seal(folder, manifest)
    return f"{name}: {done}"


def opened(folder: Path) -> str:
    """Open, prove, warm up and ask; say how it ended."""
    try:
        model, _ = open_proven(folder, threads=1, runner="cpu")
    except MmsrError as error:
        return f"refused: {error}"
    try:
        warm_up(model, 4, lambda: 0.0)
        model.recommend([RowRequest([1, 2, 3], [4], 5)])
        return "served"
    finally:
        model.close()


def main(good: Path, other: Path, root: Path, first: int, last: int) -> None:
    """Open one bundle for each seed."""
    for seed in range(first, last):
        folder = root / f"bundle-{seed}"
        said = damaged(good, other, folder, seed)
        print(json.dumps({"seed": seed, "damage": said}), flush=True)
        print(json.dumps({"seed": seed, "ended": opened(folder)}), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    good, other, root = map(Path, sys.argv[1:4])
    main(good, other, root, *map(int, sys.argv[4:6]))
