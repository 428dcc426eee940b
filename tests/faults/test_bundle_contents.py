"""Bundles whose hashes are right and whose files are damaged: no parser may crash or hang."""

from pathlib import Path

from support import open_damaged
from support.every_file import publish_every_file
from support.tally import SEED, Tally, rounds
from support.told_lines import told_until_it_ends

BUNDLES = rounds(60, 1200)
LONGEST_S = 300.0  # for all that one process opens
SPACE = 100_000  # between two seeds of the suite


def test_damage_under_right_hashes_never_crashes_the_opening(tmp_path: Path, tally: Tally) -> None:
    """A bundle's file damaged before its hashes were taken."""
    shop = publish_every_file(tmp_path / "repository")
    other = publish_every_file(shop.root, seed=1, label=None)
    folders = [str(path) for path in (shop.folder, other.folder, tmp_path)]
    first, last = SPACE * SEED, SPACE * SEED + BUNDLES
    while first < last:
        said, code, words = told_until_it_ends(
            open_damaged, [*folders, str(first), str(last)], LONGEST_S
        )
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
