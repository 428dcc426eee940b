import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mmsr.training.features.cache import SHARD_RECORDS, SHARD_SECONDS, FeatureCache, contains

DIM = 3


class TurnedClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def feature(number: int) -> npt.NDArray[np.float32]:
    return np.full((1, DIM), number, np.float32)


def fill(cache: FeatureCache, numbers: range) -> None:
    for number in numbers:
        cache.add([key(number)], feature(number))


def content(cache: FeatureCache) -> dict[bytes, float]:
    """Read everything back; the keys as numpy gives them, without trailing zeros."""
    pairs = [(r["key"], r["feature"]) for records in cache.shards() for r in records]
    assert all((values == values[0]).all() for _, values in pairs)
    return {bytes(name): float(values[0]) for name, values in pairs}


def test_what_is_flushed_is_found_by_another_process(tmp_path: Path) -> None:
    first = FeatureCache(tmp_path, DIM)
    fill(first, range(5))
    first.flush()
    assert content(FeatureCache(tmp_path, DIM)) == {key(i).rstrip(b"\0"): i for i in range(5)}


def test_keys_that_end_in_zero_bytes_are_told_apart(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, DIM)
    zeros = [b"a" * 31 + b"\0", b"a" * 30 + b"\0\0", b"a" * 32]
    cache.add(zeros, np.arange(9, dtype=np.float32).reshape(3, 3))
    cache.flush()
    keys = cache.keys()
    assert len(keys) == 3
    assert contains(keys, np.array([*zeros, b"a" * 30 + b"b\0"], "S32")).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_nothing_is_contained_in_no_keys() -> None:
    assert contains(np.zeros(0, "S32"), np.array([b"a"], "S32")).tolist() == [False]


def test_a_full_shard_is_written_at_once(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, DIM, TurnedClock())
    fill(cache, range(SHARD_RECORDS - 1))
    assert list(tmp_path.glob("shard-*")) == []
    fill(cache, range(SHARD_RECORDS - 1, SHARD_RECORDS + 1))
    assert len(content(cache)) == SHARD_RECORDS


def test_an_old_shard_is_written_though_it_is_not_full(tmp_path: Path) -> None:
    clock = TurnedClock()
    cache = FeatureCache(tmp_path, DIM, clock)
    fill(cache, range(2))
    clock.now_s = SHARD_SECONDS
    assert not len(cache.keys())
    fill(cache, range(2, 3))
    assert len(cache.keys()) == 3


def test_a_later_run_adds_shards_and_changes_none(tmp_path: Path) -> None:
    for start in (0, 10):
        cache = FeatureCache(tmp_path, DIM)
        fill(cache, range(start, start + 10))
        cache.flush()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard-000000.npy", "shard-000001.npy"]
    assert len(FeatureCache(tmp_path, DIM).keys()) == 20


def test_a_damaged_shard_counts_as_unknown_and_is_removed(tmp_path: Path) -> None:
    for start in (0, 10, 20):
        cache = FeatureCache(tmp_path, DIM)
        fill(cache, range(start, start + 10))
        cache.flush()
    cut, other = tmp_path / "shard-000000.npy", tmp_path / "shard-000001.npy"
    cut.write_bytes(cut.read_bytes()[:-50])
    np.save(other, np.zeros(3))
    assert len(cache.keys()) == 10
    assert [p.name for p in tmp_path.iterdir()] == ["shard-000002.npy"]


def test_only_what_is_used_is_kept_and_other_links_keep_the_rest(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    for start in (0, 10, 20):
        cache = FeatureCache(mine, DIM)
        fill(cache, range(start, start + 10))
        cache.flush()
    for path in mine.iterdir():
        os.link(path, other / path.name)
    untouched = (mine / "shard-000000.npy").stat().st_ino
    used = [*range(10), 13, 17]  # all of the first shard, some of the second, none of the third
    cache.keep_only(np.unique(np.array([key(number) for number in used], "S32")))
    assert content(cache) == {key(number).rstrip(b"\0"): number for number in used}
    assert sorted(p.name for p in mine.iterdir()) == ["shard-000000.npy", "shard-000001.npy"]
    assert (mine / "shard-000000.npy").stat().st_ino == untouched
    assert len(content(FeatureCache(other, DIM))) == 30


ENDLESS_WRITER = """
import hashlib, itertools, sys
from pathlib import Path
import numpy as np
from mmsr.training.features.cache import FeatureCache
cache = FeatureCache(Path(sys.argv[1]), 3)
for i in itertools.count():
    key = hashlib.sha256(str(i).encode()).digest()
    cache.add([key], np.full((1, 3), i, np.float32))
"""


def test_a_killed_writer_leaves_whole_shards(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)])
    deadline_s = time.monotonic() + 30
    while len(list(tmp_path.glob("shard-*.npy"))) < 5:
        assert writer.poll() is None
        assert time.monotonic() < deadline_s
        os.sched_yield()
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    found = content(FeatureCache(tmp_path, DIM))
    assert len(found) % SHARD_RECORDS == 0
    assert found == {key(i).rstrip(b"\0"): i for i in range(len(found))}
