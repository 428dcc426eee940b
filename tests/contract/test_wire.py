"""The contract on the wire: generated code is fresh, and old bytes keep their meaning."""

import subprocess
import sys
from pathlib import Path

from support.tree import ROOT

from mmsr.v1.recommender_pb2 import FALLBACK_POPULARITY, RecommendRequest, RecommendResponse

# Written once and never changed: a release that cannot read these breaks every client.
REQUEST_HEX = "0a03612d310a04c3a42d32100a1a03622d392001"
RESPONSE_HEX = (
    "0a0378312d0a03793232120800002040000000bf1a10303132333435363738396162636465662002280130c80138"
    "901c4008"
)
UNKNOWN_HEX = "4a066e6f626f64794a04c3bc2d31"  # after it, where the server names unknown ids


def golden_request() -> RecommendRequest:
    return RecommendRequest(history=["a-1", "ä-2"], k=10, excluded_ids=["b-9"], exclude_seen=True)


def golden_response() -> RecommendResponse:
    return RecommendResponse(
        item_ids=["x1-", "y22"],
        scores=[2.5, -0.5],
        model_version="0123456789abcdef",
        unknown_ids=2,
        fallback=FALLBACK_POPULARITY,
        queue_us=200,
        compute_us=3600,
        batch_size=8,
    )


def test_a_request_is_these_bytes() -> None:
    assert golden_request().SerializeToString(deterministic=True).hex() == REQUEST_HEX
    assert RecommendRequest.FromString(bytes.fromhex(REQUEST_HEX)) == golden_request()


def test_a_response_is_these_bytes() -> None:
    assert golden_response().SerializeToString(deterministic=True).hex() == RESPONSE_HEX
    assert RecommendResponse.FromString(bytes.fromhex(RESPONSE_HEX)) == golden_response()


def test_a_response_that_names_unknown_ids_is_these_bytes() -> None:
    response = golden_response()
    response.unknown_item_ids.extend(["nobody", "ü-1"])
    assert response.SerializeToString(deterministic=True).hex() == RESPONSE_HEX + UNKNOWN_HEX
    assert RecommendResponse.FromString(bytes.fromhex(RESPONSE_HEX + UNKNOWN_HEX)) == response


def test_an_unset_choice_is_told_from_false() -> None:
    assert not RecommendRequest(k=1).HasField("exclude_seen")
    assert RecommendRequest(exclude_seen=False).HasField("exclude_seen")


def test_unknown_fields_of_a_newer_client_are_ignored() -> None:
    newer = bytes.fromhex(REQUEST_HEX) + bytes.fromhex("aa0603787878")  # field 101, "xxx"
    assert list(RecommendRequest.FromString(newer).history) == ["a-1", "ä-2"]


def test_the_generated_code_is_fresh(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / ".ci" / "generate_proto.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    made = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    proto = ROOT / "proto"
    committed = {p.relative_to(proto): p.read_bytes() for p in proto.rglob("*_pb2*.py*")}
    committed = {name: text for name, text in committed.items() if "__pycache__" not in name.parts}
    assert made.keys() == committed.keys()
    stale = [str(name) for name in made if made[name] != committed[name]]
    assert not stale, f"run `make proto`: {stale}"
