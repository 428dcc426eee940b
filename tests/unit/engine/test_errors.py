import grpc
import pytest

from mmsr.engine import errors
from mmsr.engine.errors import EngineError, Overloaded, from_status


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
        ("RESOURCE_EXHAUSTED", None, "MessageTooLarge"),
        ("DEADLINE_EXCEEDED", None, "DeadlineTooShort"),
        ("INTERNAL", None, "RunnerFailed"),
    ],
)
def test_a_status_becomes_the_error_that_caused_it(
    code: str, retry_after_ms: int | None, name: str
) -> None:
    error = from_status(code, "the details", retry_after_ms)
    assert (type(error).__name__, str(error), error.code) == (name, "the details", code)


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
