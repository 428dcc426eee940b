"""Typed clients of a server, blocking and for asyncio.

    with RecommenderClient("127.0.0.1:50051") as client:
        answer = client.recommend(["item-17", "item-4"], k=5, deadline_ms=50)

A status of the server comes back as the exception of `mmsr.engine.errors` that caused it. Calls
that another moment may answer are sent again, within their deadline and a budget: see `Retries`.
`python -m mmsr.engine.client TARGET --history ID -k 5` asks once and prints a table.
"""

from mmsr.engine.client_async import AsyncRecommenderClient
from mmsr.engine.client_calls import TIMEOUT_S
from mmsr.engine.client_catalogue import (
    AsyncCatalogueClient,
    CatalogueClient,
    Changed,
    Item,
    ItemPage,
    Items,
    ItemState,
    Progress,
    Upserted,
)
from mmsr.engine.client_connection import Connection
from mmsr.engine.client_retry import Retries
from mmsr.engine.client_sync import RecommenderClient
from mmsr.engine.client_values import (
    Explanations,
    ItemExplanation,
    Neighbours,
    Recommendations,
    Request,
    Scores,
    StreamAnswer,
    StreamRequest,
)

__all__ = [
    "TIMEOUT_S",
    "AsyncCatalogueClient",
    "AsyncRecommenderClient",
    "CatalogueClient",
    "Changed",
    "Connection",
    "Explanations",
    "Item",
    "ItemExplanation",
    "ItemPage",
    "ItemState",
    "Items",
    "Neighbours",
    "Progress",
    "Recommendations",
    "RecommenderClient",
    "Request",
    "Retries",
    "Scores",
    "StreamAnswer",
    "StreamRequest",
    "Upserted",
]

if __name__ == "__main__":
    from mmsr.engine.client_cli import main

    main()
