"""The settings of a server. Read once at the edge, passed whole. Does no input or output."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from mmsr.engine.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """How waiting requests become batches."""

    max_batch: int = 64  # requests
    # Counted from the oldest request. 0: a batch is what is queued when the runner frees. A fixed
    # wait of 1 ms halved the rate at concurrency 1 and gained nothing above.
    max_wait_ms: float = 0.0
    queue_limit: int = 1024  # requests waiting; more are refused
    # Requests of a batch times its longest history, what all of it are padded to: bounds memory and
    # time of one computation where histories are long. 64 of 256 items.
    max_work: int = 16_384
    bulk_limit: int = 4096  # requests of batch calls waiting; more are refused
    # Places of a batch that are the batch calls' while single requests come: what they wait for at
    # most, and what is left to the batch calls. Without single requests it is the whole batch.
    bulk_share: float = 0.125

    def __post_init__(self) -> None:
        _at_least(1, max_batch=self.max_batch, queue_limit=self.queue_limit)
        _at_least(1, max_work=self.max_work, bulk_limit=self.bulk_limit)
        _at_least(0, max_wait_ms=self.max_wait_ms, bulk_share=self.bulk_share)
        if self.bulk_share > 1:
            raise ConfigError(f"bulk_share {self.bulk_share}; expected 0 to 1")

    @property
    def bulk_places(self) -> int:
        """Return how many places of a full batch are the batch calls'; at least one."""
        return max(1, round(self.bulk_share * self.max_batch))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for, as written in recommender.proto."""

    k: int = 1000  # items
    history: int = 10_000  # ids
    excluded: int = 10_000  # ids
    allowed: int = 10_000  # ids
    categories: int = 1000  # names to include, and as many to exclude
    candidates: int = 1000  # ids to be scored
    explained: int = 100  # items of one explanation
    batch: int = 1024  # requests of one call
    id_bytes: int = 512  # of an item's id, a category's name, a user's or a stream's key
    message_bytes: int = 4 << 20


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """One server."""

    repository: Path
    label: str = "stable"
    host: str = "127.0.0.1"
    port: int = 50051  # 0: any free one
    threads: int = field(default_factory=lambda: default_threads())  # of one computation
    grace_s: float = 30.0  # from the order to stop to the end, whatever is still in flight
    # Of that, how long requests are still answered: balancers need some seconds to look elsewhere.
    lame_duck_s: float = 5.0
    port_file: Path | None = None  # receives the real port once the server serves
    batch: BatchConfig = field(default_factory=BatchConfig)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        _at_least(0, port=self.port, grace_s=self.grace_s, lame_duck_s=self.lame_duck_s)
        _at_least(1, threads=self.threads)
        if self.port > 65535:
            raise ConfigError(f"port {self.port}; expected 0 to 65535")


def default_threads() -> int:
    """Return `threads_for` the CPUs that this process may use."""
    return threads_for(len(os.sched_getaffinity(0)))


def threads_for(cpus: int) -> int:
    """Return all CPUs less one, which is left to gRPC; at least 1."""
    return max(1, cpus - 1)


def _at_least(least: int, **settings: float) -> None:
    for name, value in settings.items():
        if not value >= least:  # also refuses NaN
            raise ConfigError(f"{name} {value}; expected at least {least}")
