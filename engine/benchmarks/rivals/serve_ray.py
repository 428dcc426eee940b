"""Ray Serve around the shared model: gRPC with this project's proto. Runs in Ray's environment."""

import asyncio
import signal
from typing import Any

import ray  # type: ignore[import-not-found]
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions  # type: ignore[import-not-found]
from ray.serve.schema import LoggingConfig  # type: ignore[import-not-found]

from benchmarks.rivals.shared_model import Query, Ranking, open_shared, read_order
from mmsr.v1 import recommender_pb2 as pb

ORDER = read_order()
SERVICER = "mmsr.v1.recommender_pb2_grpc.add_RecommenderServicer_to_server"
STORE_BYTES = 100 << 20  # of Ray's object store, which nothing here uses


@serve.deployment(max_ongoing_requests=2048, logging_config=LoggingConfig(enable_access_log=False))
class Recommender:
    """One replica."""

    def __init__(self) -> None:
        self.model = open_shared(ORDER)

    @serve.batch(  # type: ignore[untyped-decorator]
        max_batch_size=ORDER.max_batch, batch_wait_timeout_s=ORDER.wait_ms / 1e3
    )
    async def batched(self, queries: list[Query]) -> list[Ranking]:
        """Answer a batch in a thread, so that the next one gathers meanwhile."""
        return await asyncio.to_thread(self.model.recommend, queries)

    async def Recommend(self, request: Any) -> Any:  # noqa: N802
        """Answer one call; the method is found by its name in the proto."""
        ranking = await self.batched(Query(list(request.history), request.k))
        return pb.RecommendResponse(item_ids=ranking.item_ids, scores=ranking.scores)


def main() -> None:
    """Serve until SIGTERM."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=STORE_BYTES,
        _temp_dir=ORDER.folder,
    )
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=ORDER.side_port),
        grpc_options=gRPCOptions(port=ORDER.port, grpc_servicer_functions=[SERVICER]),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    application = Recommender.bind()  # type: ignore[attr-defined]
    serve.run(application, name="recommender", route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
