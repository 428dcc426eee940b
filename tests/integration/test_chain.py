"""One history, every way to an answer: PyTorch, ONNX, runners, both protocols, around a reload.

The tolerance is the export gate's: an item is right if its PyTorch score is at least the K-th best
less 1e-4 of the largest, so ties may fall either way.
"""

from collections.abc import Callable, Iterator, Sequence

import grpc
import pytest
from support.chain import (
    Answer,
    Chain,
    Judge,
    by_onnxruntime,
    by_runner,
    cpu,
    cuda,
    histories,
    make_chain,
    tensorrt,
)
from support.oip_call import infer
from support.serving import PATIENCE_S, Served, serving

from mmsr.engine.client import (
    Recommendations,
    RecommenderClient,
    Request,
    Retries,
    StreamRequest,
)
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.runners.base import Runner

HISTORIES = 40
FIRST, SECOND, INT8 = 0, 1, 2

Way = Callable[["Asker"], list[Answer]]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def asked(chain: Chain) -> list[list[str]]:
    return histories(0, HISTORIES, chain.first.info.items)


@pytest.fixture(scope="module")
def ks() -> list[int]:
    return [(1, 5, 10, 20, 1000)[n % 5] for n in range(HISTORIES)]  # 1000: all that is left


@pytest.fixture(scope="module")
def first(chain: Chain, asked: list[list[str]]) -> Judge:
    return Judge(chain.first, asked)


@pytest.fixture(scope="module")
def second(chain: Chain, asked: list[list[str]]) -> Judge:
    return Judge(chain.second, asked)


@pytest.fixture(scope="module")
def served(chain: Chain) -> Iterator[Served]:
    with serving(chain.repository.root, "--also", "int8") as served:
        yield served


class Asker:
    """Asks a server for all histories, in one of several ways; notes which bundle answered."""

    def __init__(self, served: Served, asked: Sequence[Sequence[str]], ks: Sequence[int]) -> None:
        self.target = served.target
        self.requests = [Request(history=line, k=k) for line, k in zip(asked, ks, strict=True)]
        self.asked, self.ks = asked, ks
        self.label = ""
        self.bundles: set[str] = set()
        self.client = RecommenderClient(self.target, PATIENCE_S, retries=Retries(tries=1))

    def told(self, answer: object) -> Answer:
        """Return what an answer says."""
        assert isinstance(answer, Recommendations), answer
        assert answer.fallback is None
        assert answer.unknown_ids == 0
        self.bundles.add(answer.model_version)
        return list(answer.items)

    def labelled(self) -> list[Request]:
        """Return the requests, for the label that is asked."""
        return [
            Request(history=request.history, k=request.k, label=self.label)
            for request in self.requests
        ]


def single(asker: Asker) -> list[Answer]:
    return [
        asker.told(asker.client.recommend(request.history, request.k, label=request.label))
        for request in asker.labelled()
    ]


def batched(asker: Asker) -> list[Answer]:
    return [asker.told(answer) for answer in asker.client.recommend_batch(asker.labelled())]


def streamed(asker: Asker) -> list[Answer]:
    messages = [StreamRequest(request=r, key=f"{n}") for n, r in enumerate(asker.labelled())]
    answers = {a.key: a.result for a in asker.client.recommend_stream(messages)}
    return [asker.told(answers[f"{n}"]) for n in range(len(messages))]


def inferred(asker: Asker) -> list[Answer]:
    with grpc.insecure_channel(asker.target) as channel:
        answers = infer(channel, asker.asked, asker.ks, PATIENCE_S)
    asker.bundles |= {answer.bundle for answer in answers}
    return [answer.items for answer in answers]


WAYS: tuple[Way, ...] = (single, batched, streamed, inferred)


def test_the_two_runs_do_not_answer_alike(first: Judge, second: Judge, chain: Chain) -> None:
    """Else what follows could not tell one bundle from the other."""
    answers = by_onnxruntime(chain.folder(SECOND), first.asked, [5] * HISTORIES)
    second.check(answers, [5] * HISTORIES)
    with pytest.raises(AssertionError):
        first.check(answers, [5] * HISTORIES)


def test_the_graph_alone_answers_as_pytorch_does(
    chain: Chain, first: Judge, asked: list[list[str]], ks: list[int]
) -> None:
    first.check(by_onnxruntime(chain.folder(FIRST), asked, ks), ks)
    alone = [
        answer
        for line, k in zip(asked, ks, strict=True)
        for answer in by_onnxruntime(chain.folder(FIRST), [line], [k])
    ]
    first.check(alone, ks)


@pytest.mark.parametrize("batch", [1, 7, HISTORIES])
@pytest.mark.parametrize(
    ("open_runner", "bundle"),
    [(cpu, FIRST), (cpu, INT8), (cuda, FIRST), (cuda, INT8), (tensorrt, FIRST)],
    ids=["cpu", "cpu, int8", "cuda", "cuda, int8", "tensorrt"],
)
def test_every_runner_answers_as_pytorch_does(
    chain: Chain,
    first: Judge,
    ks: list[int],
    open_runner: Callable[[OpenedBundle], Runner],
    bundle: int,
    batch: int,
) -> None:
    folder = chain.folder(bundle)
    first.check(by_runner(folder, open_runner, first.asked, ks, batch=batch), ks)


@pytest.mark.parametrize("way", [single, batched, streamed], ids=lambda way: way.__name__)
def test_the_bundle_in_int8_answers_as_pytorch_does(
    way: Way, chain: Chain, served: Served, first: Judge, ks: list[int]
) -> None:
    asker = Asker(served, first.asked, ks)
    asker.label = "int8"
    first.check(way(asker), ks)
    assert asker.bundles == {chain.bundles[INT8]}


def test_a_server_answers_as_pytorch_does_on_every_way_before_and_after_a_reload(
    chain: Chain, served: Served, first: Judge, second: Judge, ks: list[int]
) -> None:
    asker = Asker(served, first.asked, ks)

    def ask_all(judge: Judge, bundle: str) -> dict[str, list[Answer]]:
        asker.bundles.clear()
        found = {way.__name__: way(asker) for way in WAYS}
        for answers in found.values():
            judge.check(answers, ks)
        assert asker.bundles == {bundle}
        return found

    a, b, _ = chain.bundles
    before = ask_all(first, a)
    chain.repository.promote(b, "stable")
    served.wait_for(f"stable is {b} now")
    ask_all(second, b)
    chain.repository.rollback("stable")
    served.wait_for(f"stable is {a} now")
    assert ids_of(ask_all(first, a)) == ids_of(before)


def ids_of(found: dict[str, list[Answer]]) -> dict[str, list[list[str]]]:
    return {
        way: [[item_id for item_id, _ in answer] for answer in answers]
        for way, answers in found.items()
    }
