"""Bundles whose hashes are right and whose files are damaged: no parser may crash or hang."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import open_damaged
from support.every_file import publish_every_file
from support.tally import SEED, Tally, rounds
from support.tree import ROOT

BUNDLES = rounds(60, 1200)
LONGEST_S = 300.0  # for all that one process opens
SPACE = 100_000  # between two seeds of the suite


def opened_until_it_ends(arguments: list[str]) -> tuple[list[dict[str, Any]], int, str]:
    """Return what the process said, its exit code, and its last words."""
    places = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    process = subprocess.run(
        [sys.executable, open_damaged.__file__, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=LONGEST_S,
        check=False,
    )
    said = [json.loads(line) for line in process.stdout.splitlines() if line.endswith("}")]
    return said, process.returncode, process.stderr.strip().rpartition("\n")[2]


def test_damage_under_right_hashes_never_crashes_the_opening(tmp_path: Path, tally: Tally) -> None:
    """A bundle's file damaged before its hashes were taken."""
    shop = publish_every_file(tmp_path / "repository")
    other = publish_every_file(shop.root, seed=1, label=None)
    folders = [str(path) for path in (shop.folder, other.folder, tmp_path)]
    first, last = SPACE * SEED, SPACE * SEED + BUNDLES
    while first < last:
        said, code, words = opened_until_it_ends([*folders, str(first), str(last)])
        damage = {line["seed"]: line["damage"] for line in said if "damage" in line}
        ended = {line["seed"]: line["ended"] for line in said if "ended" in line}
        tally.mutations += len(damage)
        for seed, how in ended.items():
            if how == "served":
                tally.survived("answers its probe set as PyTorch does: not felt, or read later")
            elif "\n" in how or (".onnx: " not in how and "export the model again" not in how):
                tally.lose(f"seed {seed}: {damage[seed]}: {how}")
            else:
                tally.survived("refused in one line")
        for seed in damage.keys() - ended.keys():
            tally.lose(f"seed {seed}: {damage[seed]}: code {code}: {words}")
        assert damage, words
        first = max(damage) + 1
    tally.check(at_least=BUNDLES)
