"""A repository under kill -9 and under several processes at once.

The processes do nothing but write to it, so that a kill meets every step often; whole exports are
killed in test_kill_export.
"""

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import publisher
from support.tally import SEED, Tally, rounds
from support.whole import assert_whole, remains

from mmsr.bundle.repository import Repository

KILLS = rounds(30, 120)
LONGEST_S = 0.06  # a child's life: about ten steps of the publisher
PATIENCE_S = 60.0


@contextmanager
def forked(repository: Repository, seed: int) -> Iterator[tuple[int, int]]:
    """Fork a child that publishes; give its pid and the pipe on which it reports each step."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for _ in publisher.work(repository, seed):
                os.write(write, b".")
        finally:  # an error, which the parent sees: the child ends by itself
            os._exit(70)
    os.close(write)
    try:
        yield pid, read
    finally:
        os.close(read)


def kill_after(pid: int, read: int, delay_s: float) -> int:
    """Let the child begin, wait for `delay_s`, kill it; return its wait status."""
    assert select.select([read], [], [], PATIENCE_S)[0], "the child did nothing"
    descriptor = os.pidfd_open(pid)
    try:
        ended = bool(select.select([descriptor], [], [], delay_s)[0])
        assert not ended, "the child has ended by an error"
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, 0)[1]
    finally:
        os.close(descriptor)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the child starts no threads
def test_kill_at_any_moment_leaves_a_valid_repository(tmp_path: Path, tally: Tally) -> None:
    """kill -9 of a process that publishes, promotes, rolls back and prunes."""
    repository = Repository(tmp_path)
    repository.create()
    delays = random.Random(SEED)
    left_behind = 0
    for kill in range(KILLS):
        with forked(repository, kill) as (pid, read):
            status = kill_after(pid, read, delays.uniform(0, LONGEST_S))
        assert os.WTERMSIG(status) == signal.SIGKILL
        left_behind += bool(remains(repository))
        assert_whole(repository)
        publisher.publish(repository, f"after {kill}".encode(), 0.5, "stable")
        assert remains(repository) == []
        assert_whole(repository)
        tally.kills += 1
        tally.survived("bundles and labels are whole; the next to publish sweeps what was left")
    assert left_behind >= KILLS // 4, "the kills came between the steps: nothing was tested"


def test_processes_at_once_do_not_corrupt_each_other(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.create()
    rounds = 40
    children = [
        subprocess.Popen(
            [sys.executable, publisher.__file__, str(tmp_path), str(seed), str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    for child in children:
        out, err = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0, err
        assert out.splitlines()[-1] == str(rounds)
    assert_whole(repository)
    assert remains(repository) == []
    assert repository.resolve("stable").is_dir()
