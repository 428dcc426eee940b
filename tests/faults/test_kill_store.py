"""Kill -9 of a process that keeps writes: nothing that it acknowledged is lost or half there."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from support import kept_writes
from support.kept_writes import vector_of, writes_of
from support.tally import SEED, Tally, rounds

from mmsr.engine.catalogue.store import SqliteStore

KILLS = rounds(6, 60)
PATIENCE_S = 60.0


@pytest.mark.slow
def test_what_was_acknowledged_survives_kills_at_any_moment(tmp_path: Path, tally: Tally) -> None:
    """kill -9 of a process that keeps changes of the catalogue."""
    path, moments = tmp_path / "catalogue.db", random.Random(SEED)
    acknowledged = 0
    for _ in range(KILLS):
        acknowledged = _write_and_kill(path, moments, acknowledged)
        store = SqliteStore(path, image_bytes=1 << 20)
        store.open()  # checks the file as well
        version = store.version()
        # One commit may be durable whose acknowledgement the kill was faster than.
        assert acknowledged <= version <= acknowledged + 1
        _compare(store, version)
        store.close()
        acknowledged = version
        tally.kills += 1
        tally.survived("every acknowledged change is whole when it is opened again")
    assert acknowledged > 2 * KILLS


def _write_and_kill(path: Path, moments: random.Random, before: int) -> int:
    """Return the last version that was acknowledged before the process died."""
    process = subprocess.Popen(
        [sys.executable, kept_writes.__file__, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    assert lines == [f"{before}\n"], "the store did not open with what was acknowledged"
    lines += [process.stdout.readline() for _ in range(moments.randint(1, 15))]
    for _ in range(moments.randint(0, 20_000)):  # somewhere within the next commit
        pass
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.wait(PATIENCE_S)
    process.stdout.close()
    return int([line for line in lines if line.endswith("\n")][-1])


def _compare(store: SqliteStore, version: int) -> None:
    """Every item is as the last commit that wrote it left it, features and image with it."""
    latest = {}
    for past in range(max(1, version - 60), version + 1):
        latest.update({write.record.item_id: write for write in writes_of(past)})
    ids = list(latest)
    records, features = store.records(ids), store.features(ids)
    assert records == {item_id: write.record for item_id, write in latest.items()}
    for item_id, write in latest.items():
        [vector] = features[item_id].values()
        assert (vector == vector_of(write.record.version)).all()
        assert store.image(item_id) == write.image
