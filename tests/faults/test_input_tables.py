"""A shop's files damaged, of odd types, or endless: prepared, or refused in one line.

The command runs in a process of its own whose memory is bounded: no library that reads them may
crash, hang or take all there is.
"""

from pathlib import Path
from typing import Any

from support import prepare_damaged
from support.bombs import BOMBS
from support.tally import SEED, Tally, rounds
from support.told_lines import told_until_it_ends

SHOPS = rounds(150, 10_000)
SPACE = 100_000  # between two seeds of the suite
SPACE_MIB = 1024  # beyond what the process takes when nothing is read yet
AT_ONCE = 500  # shops that one process prepares, if it lives
LONGEST_S = 500.0  # for them


def prepared_until_it_ends(
    folder: Path, kind: str, first: int, last: int
) -> tuple[list[dict[str, Any]], int, str]:
    """Return what the process said, its exit code, and its last words."""
    arguments = [str(folder), kind, *map(str, (SPACE_MIB, first, last))]
    pool = {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # its own begins with reserving a GiB
    return told_until_it_ends(prepare_damaged, arguments, LONGEST_S, pool)


def count(tally: Tally, said: list[dict[str, Any]], code: int, words: str) -> int:
    """Count how each shop ended; return the seed of the last."""
    what = {line["seed"]: line["input"] for line in said if "input" in line}
    ended = {line["seed"]: line["ended"] for line in said if "ended" in line}
    for seed, how in ended.items():
        if how == "used":
            tally.survived("prepared: what is wrong is left out, listed or not felt")
        elif how.startswith("refused: "):
            tally.survived("refused in one line")
        else:
            tally.lose(f"seed {seed}, {what[seed]}: {how}")
    for seed in what.keys() - ended.keys():
        tally.lose(f"seed {seed}, {what[seed]}: the process ended with {code}: {words}")
    assert what, words
    return int(max(what))


def test_tables_that_are_damaged(tmp_path: Path, tally: Tally) -> None:
    """Parquet, CSV, JSON lines, gzip and zip damaged at random; odd types, encodings, numbers."""
    first, last = SPACE * SEED, SPACE * SEED + SHOPS
    while first < last:
        until = min(first + AT_ONCE, last)
        first = 1 + count(tally, *prepared_until_it_ends(tmp_path, "damaged", first, until))
    tally.check(at_least=SHOPS)


def test_tables_without_an_end(tmp_path: Path, tally: Tally) -> None:
    """Small files that hold more than any memory: texts, lists, lines, packed and not."""
    said, code, words = prepared_until_it_ends(tmp_path, "bombs", 0, len(BOMBS))
    count(tally, said, code, words)
    tally.check(at_least=len(BOMBS))
    assert set(tally.recovered) == {"refused in one line"}
