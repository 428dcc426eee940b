"""BentoML around the shared model: HTTP, its adaptive batching. Runs in BentoML's own environment.

python -m bentoml serve benchmarks.rivals.serve_bentoml:Recommender
"""

from typing import Any

import bentoml  # type: ignore[import-not-found]

from benchmarks.rivals.shared_model import Query, open_shared, read_order

ORDER = read_order()
Body = dict[str, Any]


@bentoml.service(
    workers=1,
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
)
class Recommender:
    """The service; plain dictionaries are what its own validation takes least time for."""

    def __init__(self) -> None:
        self.model = open_shared(ORDER)

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=ORDER.max_batch, max_latency_ms=int(ORDER.wait_ms)
    )
    def recommend(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer a batch."""
        queries = [Query(body["history"], body["k"]) for body in requests]
        return [ranking._asdict() for ranking in self.model.recommend(queries)]
