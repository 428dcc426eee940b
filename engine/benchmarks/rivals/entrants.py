"""Who is measured, over which protocol, with which settings; each setting with its reason."""

import json
from dataclasses import dataclass
from typing import Literal

from mmsr.v1 import recommender_pb2 as pb

Protocol = Literal["grpc", "http"]
METHOD = "/mmsr.v1.Recommender/Recommend"
OURS = "mmsr-serve"
CEILING = "bare grpc.aio echo"


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """One server."""

    name: str
    module: str  # what is run; of BentoML, what is served
    venv: str | None = None  # name of its requirements file; None: this environment
    protocol: Protocol = "grpc"
    path: str = METHOD
    arguments: tuple[str, ...] = ()
    wait_ms: float = 0.0
    answers_by_model: bool = True
    about: str = ""

    @property
    def slug(self) -> str:
        """Return the name as part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())

    def encode(self, history: list[str], k: int) -> bytes:
        """Return a request as this server wants it."""
        if self.protocol == "grpc":
            return pb.RecommendRequest(history=history, k=k).SerializeToString()
        body = {"history": history, "k": k}
        wrapped = {"requests": [body]} if self.venv == "bentoml" else body
        return json.dumps(wrapped, separators=(",", ":")).encode()

    def decode(self, answer: bytes) -> tuple[list[str], list[float]]:
        """Return item ids and scores of an answer."""
        if self.protocol == "grpc":
            message = pb.RecommendResponse.FromString(answer)
            return list(message.item_ids), list(message.scores)
        body = json.loads(answer)
        [ranking] = body if isinstance(body, list) else [body]
        return ranking["item_ids"], ranking["scores"]


MMSR = Entrant(
    name=OURS,
    module="mmsr.engine.cli",
    about="gRPC; defaults: up to 64 requests a batch, no wait",
)
LITSERVE = Entrant(
    name="LitServe",
    module="benchmarks.rivals.serve_litserve",
    venv="litserve",
    protocol="http",
    path="/predict",
    wait_ms=5.0,
    about="HTTP; max_batch_size 64, batch_timeout 5 ms (0 spins; 1 and 5 ms tried at 12,000 "
    "items, 1, 2 and 10 at 100,000, a block each on a busy machine), fast_queue, "
    "one API process and one inference worker",
)
BENTOML = Entrant(
    name="BentoML",
    module="benchmarks.rivals.serve_bentoml:Recommender",
    venv="bentoml",
    protocol="http",
    path="/recommend",
    wait_ms=1000.0,
    about="HTTP; batchable, max_batch_size 64, max_latency_ms 1000 (100 refused a part), one "
    "worker, no access log, no metrics",
)
RAY = Entrant(
    name="Ray Serve",
    module="benchmarks.rivals.serve_ray",
    venv="ray",
    about="gRPC; serve.batch of up to 64 without a wait, computed in a thread; one replica, its "
    "throughput settings (one loop, gRPC between proxy and replica, buffered logs), no dashboard",
)
ECHO = Entrant(
    name=CEILING,
    module="benchmarks.rivals.serve_echo",
    arguments=("uvloop",),
    answers_by_model=False,
    about="gRPC; parses the request, answers 20 fixed items: no model, the ceiling",
)
ENTRANTS = (MMSR, LITSERVE, BENTOML, RAY, ECHO)
RIVALS = (LITSERVE, BENTOML, RAY)
