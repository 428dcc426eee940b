import grpc
import pytest

from mmsr.engine import errors
from mmsr.engine.client_connection import typed
from mmsr.engine.errors import CatalogueFull, EngineError, Overloaded, RateExceeded, from_status


def every_class() -> list[type[EngineError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    return [value for value in found if issubclass(value, EngineError)]


def test_every_error_has_a_status_of_grpc() -> None:
    assert {error.code for error in every_class()} <= set(grpc.StatusCode.__members__)


def test_every_error_is_explained_in_the_tree() -> None:
    text = errors.__doc__ or ""
    assert all(error.__name__ in text for error in every_class())


@pytest.mark.parametrize(
    ("code", "retry_after_ms", "name"),
    [
        ("UNAVAILABLE", None, "Unavailable"),
        ("INVALID_ARGUMENT", None, "InvalidRequest"),
        ("RESOURCE_EXHAUSTED", 12, "Overloaded"),
        ("RESOURCE_EXHAUSTED", None, "Exhausted"),
        ("DEADLINE_EXCEEDED", None, "DeadlineTooShort"),
        ("INTERNAL", None, "RunnerFailed"),
    ],
)
def test_a_status_becomes_the_error_that_caused_it(
    code: str, retry_after_ms: int | None, name: str
) -> None:
    error = from_status(code, "the details", retry_after_ms)
    assert (type(error).__name__, str(error), error.code) == (name, "the details", code)


@pytest.mark.parametrize(
    "details",
    [
        "SERVER: Received message larger than max (10000019 vs. 4194304)",  # C++ and Python
        "SERVER: Decompressed message larger than max (5000000 vs. 4194304)",
        "grpc: received message larger than max (5000000 vs. 4194304)",  # Go, and Envoy's relatives
        "gRPC message exceeds maximum size 4194304: 5000000",  # Java
    ],
)
def test_a_message_that_is_too_long_is_known_by_what_grpc_says(details: str) -> None:
    error = from_status("RESOURCE_EXHAUSTED", details)
    assert (type(error), str(error)) == (errors.MessageTooLarge, details)


@pytest.mark.parametrize(
    "details", ["Concurrent RPC limit exceeded!", "quota of the project is used up", ""]
)
def test_what_others_are_out_of_is_no_long_message_and_says_no_time(details: str) -> None:
    error = from_status("RESOURCE_EXHAUSTED", details)
    assert (type(error), str(error), error.code) == (
        errors.Exhausted,
        details,
        "RESOURCE_EXHAUSTED",
    )


class Refusal:
    """An error as gRPC hands it to a client."""

    def __init__(self, error: EngineError, *trailing: tuple[str, str]) -> None:
        self._error, self._trailing = error, trailing

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._error.code]

    def details(self) -> str:
        return str(self._error)

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._trailing


@pytest.mark.parametrize(
    ("error", "trailing"),
    [
        (CatalogueFull("no row is left"), [("error-reason", "catalogue-full")]),
        (CatalogueFull("larger than max"), [("error-reason", "catalogue-full")]),
        (
            RateExceeded("too often", 8),
            [("retry-after-ms", "8"), ("error-reason", "rate-exceeded")],
        ),
        (Overloaded("full", 8), [("retry-after-ms", "8")]),
        (Overloaded("full", 8), [("retry-after-ms", "8"), ("error-reason", "of-a-later-release")]),
        (errors.Exhausted("no quota"), [("retry-after-ms", "soon")]),
    ],
)
def test_what_is_said_beside_the_status_tells_the_class(
    error: EngineError, trailing: list[tuple[str, str]]
) -> None:
    found = typed(Refusal(error, *trailing))
    assert (type(found), str(found)) == (type(error), str(error))
    assert getattr(found, "retry_after_ms", None) == getattr(error, "retry_after_ms", None)


def test_a_call_that_the_server_cancelled_may_be_sent_elsewhere() -> None:
    assert isinstance(from_status("CANCELLED", "CANCELLED", None), errors.Unavailable)


def test_a_status_without_a_class_keeps_its_name() -> None:
    assert str(from_status("UNIMPLEMENTED", "no such method", None)) == (
        "UNIMPLEMENTED: no such method"
    )


def test_the_retry_hint_survives() -> None:
    error = from_status("RESOURCE_EXHAUSTED", "full", 12)
    assert isinstance(error, Overloaded)
    assert error.retry_after_ms == 12
