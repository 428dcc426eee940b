from pathlib import Path

import pytest
from support.virtual_time import Clock

from mmsr.engine.errors import PermissionDenied, RateExceeded, Unauthenticated
from mmsr.engine.gatekeeper import TokenGate, scope_of
from mmsr.engine.limits import ClientLimits, Rate
from mmsr.engine.tokens import TokenFile, entry_of, new_token

RECOMMEND = "mmsr.v1.Recommender/Recommend"


@pytest.fixture
def shop_token() -> str:
    return new_token()


@pytest.fixture
def gate(tmp_path: Path, shop_token: str) -> TokenGate:
    path, clock = tmp_path / "tokens.toml", Clock()
    path.write_text(entry_of("shop", ["recommend"], shop_token))
    file = TokenFile(path, clock)
    file.load()
    return TokenGate(file, ClientLimits(Rate(1.0, 2.0)), clock)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_known_token_names_its_client(gate: TokenGate, shop_token: str, scheme: str) -> None:
    assert gate.admit(RECOMMEND, {"authorization": f"{scheme} {shop_token}"}) == "shop"


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({}, "no bearer token; send the metadata"),
        ({"authorization": "Basic abc"}, "no bearer token"),
        ({"authorization": b"Bearer abc"}, "no bearer token"),
        ({"authorization": "Bearer "}, "not known here"),
        ({"authorization": "Bearer mmsr_wrong-secret"}, "not known here"),
    ],
)
def test_who_has_no_token_of_this_server_is_not_let_in(
    gate: TokenGate, metadata: dict[str, str | bytes], complaint: str
) -> None:
    with pytest.raises(Unauthenticated, match=complaint) as refused:
        gate.admit(RECOMMEND, metadata)
    assert "secret" not in str(refused.value)


def test_a_token_is_good_for_its_scopes_alone(gate: TokenGate, shop_token: str) -> None:
    metadata = {"authorization": f"Bearer {shop_token}"}
    for method in ("mmsr.v1.Catalogue/DeleteItems", "mmsr.v1.Admin/Drain", "other.Service/Any"):
        with pytest.raises(PermissionDenied, match=f"'shop' may recommend; {method} needs"):
            gate.admit(method, metadata)


def test_the_scope_goes_by_the_service_and_what_is_unknown_is_for_admins() -> None:
    assert scope_of("mmsr.v1.Recommender/Anything") == "recommend"
    assert scope_of("inference.GRPCInferenceService/ModelInfer") == "recommend"
    assert scope_of("mmsr.v1.Catalogue/UpsertItems") == "catalogue"
    for method in ("mmsr.v1.Admin/Drain", "grpc.channelz.v1.Channelz/GetServers", "new.Thing/Do"):
        assert scope_of(method) == "admin"


def test_a_client_that_asks_too_often_is_told_when_to_come_back(
    gate: TokenGate, shop_token: str
) -> None:
    metadata = {"authorization": f"Bearer {shop_token}"}
    assert [gate.admit(RECOMMEND, metadata) for _ in range(2)] == ["shop", "shop"]
    with pytest.raises(RateExceeded, match="retry in 1000 ms"):
        gate.admit(RECOMMEND, metadata)


def test_the_requests_within_a_message_count(gate: TokenGate, shop_token: str) -> None:
    metadata = {"authorization": f"Bearer {shop_token}"}
    gate.admit(RECOMMEND, metadata)
    gate.owe("shop", 9)
    with pytest.raises(RateExceeded, match="retry in 9000 ms"):
        gate.admit(RECOMMEND, metadata)
