"""What a soak does beside its load: the other methods, newer bundles, readings of the process."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import grpc
from support import soak_shop
from support.kills import children
from support.oip_call import infer
from support.serving import PATIENCE_S, Served
from support.soak_oracle import Oracle

from mmsr.bundle.repository import Repository
from mmsr.engine.bench.processes import PAGE_MIB, TICKS_PER_S
from mmsr.v1 import catalogue_pb2, catalogue_pb2_grpc
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

SEVERAL = 8  # requests of one call
TOOK_OVER = re.compile(r"stable is [0-9a-f]{16} now")


class Repeated(threading.Thread):
    """Does something every so many seconds until told to stop."""

    def __init__(self, name: str, every_s: float, do: Callable[[], None]) -> None:
        super().__init__(daemon=True, name=name)
        self._every_s = every_s
        self._do = do
        self._stop_now = threading.Event()
        self._ended_well = False

    def run(self) -> None:
        """Do it."""
        while not self._stop_now.wait(self._every_s):
            self._do()
        self._ended_well = True

    def stop(self) -> None:
        """End; returns when what was begun is done."""
        self._stop_now.set()
        self.join(PATIENCE_S)
        assert self._ended_well, f"{self.name} has not done what it should"


class Met(NamedTuple):
    """A request and its reply, and when."""

    request: pb.RecommendRequest
    reply: pb.RecommendResponse
    sent_s: float
    done_s: float


class OtherMethods:
    """Calls every method that the load does not, each on the same connection."""

    def __init__(self, target: str, seed: int) -> None:
        self.calls = 0
        self.failed: list[str] = []
        self.met: list[Met] = []  # to be checked
        self._choose = random.Random(seed)
        self._channel = grpc.insecure_channel(target)
        self._stub = pb_grpc.RecommenderStub(self._channel)
        self._catalogue = catalogue_pb2_grpc.CatalogueStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def call_all(self) -> None:
        """Call each once."""
        calls: Sequence[Callable[[], object]] = (
            self._batch,
            self._stream,
            self._broken_stream,
            self._score,
            self._similar,
            self._explain,
            self._infer,
            self._list,
        )
        for call in calls:
            self.calls += 1
            try:
                call()
            except grpc.RpcError as error:
                self.failed.append(f"{call.__name__.strip('_')}: {error}")

    def _requests(self) -> list[pb.RecommendRequest]:
        return [soak_shop.request(self._choose) for _ in range(SEVERAL)]

    def _note(
        self,
        requests: Sequence[pb.RecommendRequest],
        results: Sequence[pb.RecommendResult],
        sent_s: float,
    ) -> None:
        done_s = time.perf_counter()
        for request, result in zip(requests, results, strict=True):
            if result.HasField("error"):
                self.failed.append(f"one of several: {result.error.code} {result.error.message}")
            else:
                self.met.append(Met(request, result.response, sent_s, done_s))

    def _batch(self) -> None:
        requests, sent_s = self._requests(), time.perf_counter()
        message = pb.RecommendBatchRequest(requests=requests)
        response = self._stub.RecommendBatch(message, timeout=PATIENCE_S)
        self._note(requests, response.results, sent_s)

    def _messages(
        self, requests: Sequence[pb.RecommendRequest]
    ) -> Iterator[pb.RecommendStreamRequest]:
        for request in requests:
            yield pb.RecommendStreamRequest(key="one", request=request)

    def _stream(self) -> None:
        requests, sent_s = self._requests(), time.perf_counter()
        answers = self._stub.RecommendStream(self._messages(requests), timeout=PATIENCE_S)
        self._note(requests, [answer.result for answer in answers], sent_s)

    def _broken_stream(self) -> None:
        """Begin one and go away in the middle."""
        answers = self._stub.RecommendStream(self._messages(self._requests()), timeout=PATIENCE_S)
        next(answers)
        answers.cancel()

    def _score(self) -> None:
        candidates = [soak_shop.item(self._choose) for _ in range(20)]
        request = pb.ScoreRequest(history=["item-500", "item-501"], candidate_ids=candidates)
        self._stub.Score(request, timeout=PATIENCE_S)

    def _similar(self) -> None:
        by = self._choose.choice((pb.SIMILAR_BY_OUTPUT, pb.SIMILAR_BY_CONTENT))
        request = pb.SimilarRequest(item_id="item-500", k=10, by=by)
        self._stub.Similar(request, timeout=PATIENCE_S)

    def _explain(self) -> None:
        request = pb.ExplainRequest(history=["item-500", "item-501"], k=3)
        self._stub.Explain(request, timeout=PATIENCE_S)

    def _infer(self) -> None:
        histories = [soak_shop.history(self._choose) for _ in range(SEVERAL)]
        infer(self._channel, histories, [5] * SEVERAL, PATIENCE_S)

    def _list(self) -> None:
        self._catalogue.ListItems(catalogue_pb2.ListItemsRequest(page_size=50), timeout=PATIENCE_S)


def wrong(met: Sequence[Met], oracle: Oracle) -> list[str]:
    """Return what is wrong with the replies of calls of several."""
    found = (oracle.problem(*each) for each in met)
    return [problem for problem in found if problem is not None]


class Promoter:
    """Moves the label to the next bundle, again and again."""

    def __init__(self, served: Served, root: Path, bundles: Sequence[str]) -> None:
        self.asked = 0
        self._served = served
        self._repository = Repository(root)
        self._next = cycle([*bundles[1:], bundles[0]])

    def promote(self) -> None:
        """Move the label; returns when the bundle answers."""
        before = self.done
        self.asked += 1
        self._repository.promote(next(self._next), "stable")
        looked = threading.Event()
        deadline = time.monotonic() + PATIENCE_S
        while self.done == before and time.monotonic() < deadline:
            looked.wait(0.05)

    @property
    def done(self) -> int:
        """Return how many bundles took over, by the server's log."""
        return sum(TOOK_OVER.search(line) is not None for line in list(self._served.lines))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The server's process at one instant, without its children."""

    at_s: float
    cpu_s: float
    memory_mib: float
    descriptors: int
    threads: int
    children: int


class Readings:
    """Reads /proc every now and then."""

    def __init__(self, pid: int) -> None:
        self.taken: list[Reading] = []
        self._pid = pid
        self._folder = Path(f"/proc/{pid}")

    def take(self) -> None:
        """Take one."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        self.taken.append(
            Reading(
                at_s=time.perf_counter(),
                cpu_s=(int(fields[11]) + int(fields[12])) / TICKS_PER_S,
                memory_mib=int(fields[21]) * PAGE_MIB,
                descriptors=sum(1 for _ in (self._folder / "fd").iterdir()),
                threads=int(fields[17]),
                children=len(children(self._pid)),
            )
        )

    def within(self, began_s: float, ended_s: float) -> list[Reading]:
        """Return those of a stretch of time."""
        return [reading for reading in self.taken if began_s <= reading.at_s <= ended_s]
