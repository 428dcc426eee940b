"""Several processes that train one model: which one this is, and what they tell each other.

Any launcher will do that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, torchrun
first of all. Gradients go through torch's DistributedDataParallel, over NCCL on GPUs and Gloo on
CPUs; the little that the host has to say always goes over Gloo, which notices at once that a
process has died.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmsr.bundle.errors import MmsrError

# While the first process validates and writes, the others wait for it.
PATIENCE = timedelta(minutes=30)


class DistributedError(MmsrError):
    """The processes of one training cannot find each other, or one of them is gone."""


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Say whether this process validates, writes and prints."""
        return self.rank == 0


ALONE = Ranks()


def current_ranks() -> Ranks:
    """Return this process's place; `ALONE` outside of `joined`."""
    if not dist.is_initialized():
        return ALONE
    return Ranks(rank=dist.get_rank(), count=dist.get_world_size())


@contextmanager
def joined(environment: Mapping[str, str] = os.environ) -> Iterator[Ranks]:
    """Join the other processes that the launcher names, for as long as the context lasts.

    Raises `DistributedError` when they cannot be reached or when one ends before the others do.
    """
    ranks = ranks_of(environment)
    if ranks.count == 1:
        yield ALONE
        return
    try:
        _join(ranks, environment)
        yield ranks
    except (dist.DistError, RuntimeError) as error:
        if not _from_a_peer(error):
            raise
        raise DistributedError(
            f"process {ranks.rank} of {ranks.count} has lost another one of this training "
            f"({_reason(error)}); its own message says why; start all of them again with --resume"
        ) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def ranks_of(environment: Mapping[str, str]) -> Ranks:
    """Read RANK and WORLD_SIZE; without them there is one process."""
    if "WORLD_SIZE" not in environment:
        return ALONE
    missing = [n for n in ("RANK", "MASTER_ADDR", "MASTER_PORT") if n not in environment]
    if missing and environment["WORLD_SIZE"] != "1":
        raise DistributedError(
            f"WORLD_SIZE is set, {', '.join(missing)} not; start the processes with torchrun, or "
            "unset WORLD_SIZE to train in one"
        )
    try:
        ranks = Ranks(rank=int(environment.get("RANK", 0)), count=int(environment["WORLD_SIZE"]))
    except ValueError:
        ranks = Ranks(rank=-1)
    if not 0 <= ranks.rank < ranks.count:
        raise DistributedError(
            f"RANK {environment.get('RANK')!r} of WORLD_SIZE {environment['WORLD_SIZE']!r}; "
            "expected numbers, and the first below the second"
        )
    return ranks


def _join(ranks: Ranks, environment: Mapping[str, str]) -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(environment.get("LOCAL_RANK", ranks.rank)))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=PATIENCE)  # the environment says who and where
    dist.all_reduce(torch.zeros(1))  # nobody goes on, or ends, before all have arrived


def _from_a_peer(error: Exception) -> bool:
    """Tell what communication says of a process that is gone from every other error."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        sign in said for sign in ("closed by peer", "connection reset", "gloo", "nccl")
    )


def _reason(error: Exception) -> str:
    """Return what happened, without the place in torch's source and without its advice."""
    first = str(error).partition("\n")[0]
    return re.sub(r"^\[[^]]*\.\w+:\d+\]\s*|\. This is .*", "", first)


def parallel(module: nn.Module) -> nn.Module:
    """Return a module whose gradients are the mean over all processes; alone, itself."""
    if current_ranks().count == 1:
        return module
    # Which parameters take part does not change from step to step (static_graph); some never do,
    # such as those of content that is neither in the inputs nor in the outputs.
    wrapped = DistributedDataParallel(module, static_graph=True)
    # The statistics of features never change. The argument of this name warns in some releases.
    wrapped.broadcast_buffers = False
    return wrapped


def mean_over_processes(values: list[float]) -> list[float]:
    """Return the means of what each process has; raises at once if one is gone."""
    ranks = current_ranks()
    if ranks.count == 1:
        return values
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return [value / ranks.count for value in sums.tolist()]


def from_first(values: list[float]) -> list[float]:
    """Return the first process's values; those of the others only count how many there are."""
    if current_ranks().count == 1:
        return values
    told = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(told, src=0)
    heard: list[float] = told.tolist()
    return heard


def require_alive() -> None:
    """Raise if another process is gone, before a GPU is waited for that would wait for it."""
    if torch.cuda.is_available() and current_ranks().count > 1:
        dist.all_reduce(torch.zeros(1))  # on the CPU, hence over Gloo
