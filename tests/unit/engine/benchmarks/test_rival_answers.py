"""When a rival's answer counts as the model's, and how a request looks to each rival."""

import json

import pytest

from benchmarks.rivals.answers import BEYOND, differs
from benchmarks.rivals.connections import content_length
from benchmarks.rivals.entrants import BENTOML, ENTRANTS, LITSERVE, Entrant
from benchmarks.rivals.shared_model import Ranking
from mmsr.v1 import recommender_pb2 as pb

K = 3
SCORES = [5.0, 4.0, 4.0, *[1.0 - n / 100 for n in range(BEYOND)]]
WANTED = Ranking([f"i{n}" for n in range(K + BEYOND)], SCORES)


def test_the_models_own_answer_is_equal() -> None:
    assert differs(WANTED, ["i0", "i1", "i2"], SCORES[:K]) is None


def test_equal_scores_may_stand_in_any_order() -> None:
    assert differs(WANTED, ["i0", "i2", "i1"], SCORES[:K]) is None


@pytest.mark.parametrize(
    ("items", "scores"),
    [
        (["i0", "i1"], [5.0, 4.0]),
        (["i0", "i1", "i1"], [5.0, 4.0, 4.0]),
        (["i1", "i0", "i2"], [5.0, 4.0, 4.0]),
        (["i0", "i1", "i2"], [5.0, 4.0, 3.9]),
        (["i0", "i1", "new"], [5.0, 4.0, 4.0]),
    ],
)
def test_anything_else_is_not(items: list[str], scores: list[float]) -> None:
    assert differs(WANTED, items, scores) is not None


@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda entrant: entrant.name)
def test_every_entrant_is_asked_for_the_same(entrant: Entrant) -> None:
    raw = entrant.encode(["a", "b"], 7)
    if entrant.protocol == "grpc":
        message = pb.RecommendRequest.FromString(raw)
        assert (list(message.history), message.k) == (["a", "b"], 7)
    else:
        body = json.loads(raw)
        assert (body["requests"][0] if "requests" in body else body) == {
            "history": ["a", "b"],
            "k": 7,
        }


def test_answers_are_read_alike_over_both_protocols() -> None:
    ranking = {"item_ids": ["a"], "scores": [0.5]}
    assert LITSERVE.decode(json.dumps(ranking).encode()) == (["a"], [0.5])
    assert BENTOML.decode(json.dumps([ranking]).encode()) == (["a"], [0.5])
    answer = pb.RecommendResponse(item_ids=["a"], scores=[0.5]).SerializeToString()
    assert ENTRANTS[0].decode(answer) == (["a"], [0.5])


def test_the_length_of_a_body_is_found_however_it_is_spelt() -> None:
    assert content_length(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nserver: x") == 12
    assert content_length(b"HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length:7") == 7
    assert content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked") is None
