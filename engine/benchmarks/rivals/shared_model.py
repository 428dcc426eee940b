"""What every rival's server wraps: the bundle's own session, tables bound, as `mmsr-serve` runs it.

Runs in the rivals' environments. A rival gets the engine's batch assembly and id look-ups as well:
what is compared is all that stands around them.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from mmsr.engine.items import ItemIndex
from mmsr.engine.model import RowRequest, SequenceModel, open_model

ORDER = "MMSR_RIVAL_ORDER"  # environment variable: servers that fork or spawn hand it on


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a server is to serve, and how."""

    bundle: str
    port: int
    threads: int = 1  # of one computation
    max_batch: int = 64  # requests
    wait_ms: float = 0.0  # how long a batch waits for company, in the rival's own sense
    side_port: int = 0  # for servers that insist on a second one
    folder: str = ""  # where it may write

    def environment(self) -> dict[str, str]:
        """Return the variable that carries it."""
        return {ORDER: json.dumps(asdict(self))}


def read_order() -> Order:
    """Return the order that this process was started with."""
    return Order(**json.loads(os.environ[ORDER]))


class Query(NamedTuple):
    """One request."""

    history: Sequence[str]  # item ids, oldest first
    k: int


class Ranking(NamedTuple):
    """Its answer, best first."""

    item_ids: list[str]
    scores: list[float]


class SharedModel:
    """A bundle that answers batches of queries, as `mmsr.engine.service` would one by one."""

    def __init__(self, model: SequenceModel) -> None:
        self._model = model
        self._items = ItemIndex(model.bundle.catalogue)

    def recommend(self, queries: Sequence[Query]) -> list[Ranking]:
        """Answer a batch; histories hold at least one known item."""
        answers = self._model.recommend([self._rows_of(query) for query in queries])
        return [Ranking(self._items.ids_of(answer.rows), answer.scores) for answer in answers]

    def warm_up(self, max_batch: int) -> None:
        """Compute the smallest and the largest batch."""
        history = self._items.ids_of([1])
        for size in (1, max_batch):
            self.recommend([Query(history, 10)] * size)

    def _rows_of(self, query: Query) -> RowRequest:
        seen = self._items.rows_of(query.history)
        barred = list(dict.fromkeys(seen)) if self._model.bundle.manifest.exclude_seen else []
        return RowRequest(seen[-self._model.max_length :], barred, query.k)


def open_shared(order: Order) -> SharedModel:
    """Verify and load the bundle, and compute a batch of each extreme size."""
    model = SharedModel(open_model(Path(order.bundle), threads=order.threads))
    model.warm_up(order.max_batch)
    return model
