"""The contract on the wire: generated code is fresh, and old bytes keep their meaning."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.message import Message
from support.tree import ROOT

from mmsr.engine.config import Limits
from mmsr.engine.stream import IN_FLIGHT
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1.recommender_pb2 import FALLBACK_POPULARITY, RecommendRequest, RecommendResponse

# Written once and never changed: a release that cannot read these breaks every client.
REQUEST_HEX = "0a03612d310a04c3a42d32100a1a03622d392001"
RESPONSE_HEX = (
    "0a0378312d0a03793232120800002040000000bf1a10303132333435363738396162636465662002280130c80138"
    "901c4008"
)
UNKNOWN_HEX = "4a066e6f626f64794a04c3bc2d31"  # after it, where the server names unknown ids


LIVE = RecommendResponse(item_ids=["x"], scores=[1.5], catalogue_version=300)
# The same for what came later.
LATER = {
    "0a03612d31100a2a060a04c3a42d3232066368616972733a04746f797340004a0663616e6172795204752d3137": (
        RecommendRequest(
            history=["a-1"],
            k=10,
            allowed=pb.ItemIds(item_ids=["ä-2"]),
            include_categories=["chairs"],
            exclude_categories=["toys"],
            only_available=False,
            label="canary",
            user_key="u-17",
        )
    ),
    "0a017812040000c03f50ac02": LIVE,
    "0a070a03612d311001": pb.RecommendBatchRequest(
        requests=[RecommendRequest(history=["a-1"], k=1)]
    ),
    "0a0e0a0c0a017812040000c03f50ac020a1e121c0a125245534f555243455f455848415553544544120466756c6c"
    "180c": pb.RecommendBatchResponse(
        results=[
            pb.RecommendResult(response=LIVE),
            pb.RecommendResult(
                error=pb.RequestError(code="RESOURCE_EXHAUSTED", message="full", retry_after_ms=12)
            ),
        ]
    ),
    "0a036b2d311202100118fa01": pb.RecommendStreamRequest(
        key="k-1", request=RecommendRequest(k=1), deadline_ms=250
    ),
    "0a036b2d31120e0a0c0a017812040000c03f50ac02": pb.RecommendStreamResponse(
        key="k-1", result=pb.RecommendResult(response=LIVE)
    ),
    "0a03612d311203622d391a0663616e6172792204752d3137": pb.ScoreRequest(
        history=["a-1"], candidate_ids=["b-9"], label="canary", user_key="u-17"
    ),
    "0a017812040000c03f1a017922043031323328023003380440054806": pb.ScoreResponse(
        item_ids=["x"],
        scores=[1.5],
        unknown_candidate_ids=["y"],
        model_version="0123",
        unknown_ids=2,
        queue_us=3,
        compute_us=4,
        batch_size=5,
        catalogue_version=6,
    ),
    "0a03612d31100318022203622d392a0032066368616972733a04746f797340014a0663616e617279": (
        pb.SimilarRequest(
            item_id="a-1",
            k=3,
            by=pb.SIMILAR_BY_CONTENT,
            excluded_ids=["b-9"],
            allowed=pb.ItemIds(),
            include_categories=["chairs"],
            exclude_categories=["toys"],
            only_available=True,
            label="canary",
        )
    ),
    "0a017812040000003f1a043031323320062807": pb.SimilarResponse(
        item_ids=["x"],
        similarities=[0.5],
        model_version="0123",
        catalogue_version=6,
        compute_us=7,
    ),
    "0a03612d311203622d391805220663616e6172792a04752d3137": pb.ExplainRequest(
        history=["a-1"], item_ids=["b-9"], k=5, label="canary", user_key="u-17"
    ),
    "0a1b0a0178150000c03f1a04000000bf220b0a0474657874150000803e1203612d311a040000803f2201792a0430"
    "31323330063807": pb.ExplainResponse(
        items=[
            pb.ItemExplanation(
                item_id="x",
                score=1.5,
                history_changes=[-0.5],
                source_changes=[pb.SourceChange(source="text", change=0.25)],
            )
        ],
        history=["a-1"],
        attention=[1.0],
        unknown_item_ids=["y"],
        model_version="0123",
        catalogue_version=6,
        compute_us=7,
    ),
}


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


@pytest.mark.parametrize(("golden", "message"), LATER.items())
def test_each_message_is_its_bytes(golden: str, message: Message) -> None:
    assert message.SerializeToString(deterministic=True).hex() == golden
    assert type(message).FromString(bytes.fromhex(golden)) == message


def test_every_message_of_the_service_has_its_bytes_here() -> None:
    kinds = {type(message).DESCRIPTOR.name for message in LATER.values()}
    methods = pb.DESCRIPTOR.services_by_name["Recommender"].methods
    named = {kind.name for method in methods for kind in (method.input_type, method.output_type)}
    assert named == kinds


def test_an_empty_list_of_allowed_items_is_told_from_none() -> None:
    assert RecommendRequest(allowed=pb.ItemIds()).HasField("allowed")
    assert not RecommendRequest(k=1).HasField("allowed")


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


def buf(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [str(Path(sys.executable).parent / "buf"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.fixture
def proto(tmp_path: Path) -> Path:
    """Return a copy of the .proto files that a test may change."""
    folder = tmp_path / "proto"
    shutil.copytree(ROOT / "proto", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return folder


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        ("uint32 k = 2;", "uint32 k = 12;", 'field "2" with name "k" on message'),
        ("uint32 k = 2;", "string k = 2;", "changed type"),
        ("rpc Score(", "rpc Rank(", 'RPC "Score" on service "Recommender" was deleted'),
    ],
)
def test_a_change_that_breaks_clients_is_found(
    proto: Path, before: str, after: str, complaint: str
) -> None:
    baseline = ROOT / "proto" / "baseline.binpb"
    assert buf("breaking", proto, "--against", baseline).returncode == 0
    file = proto / "mmsr/v1/recommender.proto"
    file.write_text(file.read_text().replace(before, after))
    done = buf("breaking", proto, "--against", baseline)
    assert done.returncode != 0
    assert complaint in done.stdout


def test_a_name_against_the_rules_is_found(proto: Path) -> None:
    assert buf("lint", proto).returncode == 0
    file = proto / "mmsr/v1/recommender.proto"
    file.write_text(file.read_text().replace("uint32 k = 2;", "uint32 maxItems = 2;"))
    assert "maxItems" in buf("lint", proto).stdout


def test_the_limits_are_those_that_the_contract_names() -> None:
    limits = Limits()
    promised = {
        "How many items to return: 1 to 1,000, clipped": limits.k,
        "The user's items, oldest first; at most 10,000 ids of 1 to 512 bytes": limits.history,
        "items that must not be returned; at most 10,000": limits.excluded,
        "nothing else is returned; at most 10,000 ids": limits.allowed,
        "at least one of these categories; at most 1,000 names of 1 to 512 bytes": (
            limits.categories
        ),
        "Whose request this is, as the shop names the user; at most 512 bytes": limits.id_bytes,
        "1 to 1,024 requests": limits.batch,
        "Comes back with the answer; at most 512 bytes": limits.id_bytes,
        "What to rank: 1 to 1,000 ids": limits.candidates,
        "The items to explain: at most 100": limits.explained,
        "64 requests are in flight": IN_FLIGHT,
        "is longer than 4 MiB": limits.message_bytes >> 20,
    }
    text = (ROOT / "proto/mmsr/v1/recommender.proto").read_text()
    told = " ".join(line.strip().removeprefix("//").strip() for line in text.splitlines())
    for sentence, limit in promised.items():
        assert sentence in told
        assert re.search(rf"\b{limit:,}\b", sentence), (sentence, limit)
