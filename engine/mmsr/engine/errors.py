"""Every error of the engine and the gRPC status it becomes. Knows nothing of gRPC itself.

In the order in which a request (or a start) can meet them:

    EngineError
    ├── ConfigError          a setting is out of range                  (no server yet)
    ├── ListenError          the address cannot be listened on          (no server yet)
    ├── ProbeFailed          the runner does not answer like PyTorch    (not serving yet)
    ├── StoreDamaged         the catalogue's store cannot be opened     (not serving yet)
    ├── LoadFailed           the bundle is not served, the old one is   FAILED_PRECONDITION
    ├── LoadUnderWay         another bundle is being loaded             ABORTED
    ├── UnknownBundle        the repository has no such bundle          NOT_FOUND
    ├── FailedPrecondition   the bundle lacks what the method reads     FAILED_PRECONDITION
    │   ├── NotExplainable   a graph that explains
    │   ├── NoContentVectors vectors of the content alone
    │   └── NotLive          a catalogue that changes
    ├── Unavailable          starting, stopping or out of reach         UNAVAILABLE
    ├── Exhausted            something is used up; no word until when   RESOURCE_EXHAUSTED
    ├── MessageTooLarge      the message exceeds the size limit         RESOURCE_EXHAUSTED
    ├── Unauthenticated      no token, or one that nobody has           UNAUTHENTICATED
    ├── PermissionDenied     the token lacks the method's scope         PERMISSION_DENIED
    ├── RateExceeded         the client asks more often than it may     RESOURCE_EXHAUSTED
    ├── NotFound             what the request names is not here         NOT_FOUND
    │   ├── UnknownLabel     no model is served under this label
    │   ├── UnknownItem      the catalogue does not know the item
    │   └── UnknownModel     the Open Inference Protocol has no such
    ├── InvalidRequest       a field of the request is out of range     INVALID_ARGUMENT
    ├── CatalogueFull        no spare row is left for another item      RESOURCE_EXHAUSTED
    ├── StoreFailed          the catalogue's store cannot be written    UNAVAILABLE
    ├── Overloaded           the queue is full                          RESOURCE_EXHAUSTED
    ├── DeadlineTooShort     the answer would come too late             DEADLINE_EXCEEDED
    ├── DeviceFailed         the GPU or TensorRT refuses a call         INTERNAL
    ├── RunnerFailed         the computation failed                     INTERNAL
    │   ├── EncoderEnded     the process that encodes was ended
    │   └── Bug              something that nobody foresaw
    └── CallerLeft           the caller cancelled, or its deadline came CANCELLED
"""

# ruff: noqa: N818 - the classes are named after what happened, as the callers speak of it

from typing import ClassVar

from mmsr.bundle.errors import MmsrError


class EngineError(MmsrError):
    """The root of the tree; by itself, a status that the engine has no class for."""

    code: ClassVar[str] = "INTERNAL"
    reason: ClassVar[str] = ""  # tells a client classes of one code apart; "": the code says it


class ConfigError(EngineError):
    """A setting is out of range."""


class ListenError(EngineError):
    """The server cannot listen on its address."""


class ProbeFailed(EngineError):
    """The runner's answers on the probe set are not PyTorch's."""


class StoreDamaged(EngineError):
    """The catalogue's store is damaged, in use, or no store."""


class LoadFailed(EngineError):
    """A bundle is not fit to be served; what was served goes on."""

    code = "FAILED_PRECONDITION"


class LoadUnderWay(EngineError):
    """Another bundle is being loaded; the caller may ask again."""

    code = "ABORTED"


class UnknownBundle(EngineError):
    """The repository has no such bundle, or no such label."""

    code = "NOT_FOUND"


class FailedPrecondition(EngineError):
    """The bundle lacks what the method reads; it recommends as any other."""

    code = "FAILED_PRECONDITION"


class NotExplainable(FailedPrecondition):
    """The bundle was exported without explain.onnx."""


class NoContentVectors(FailedPrecondition):
    """The bundle was exported without tables/content.npy."""


class NotLive(FailedPrecondition):
    """The server was started without a catalogue that lives."""


class Unavailable(EngineError):
    """The server does not serve now; the caller may try another one, or later."""

    code = "UNAVAILABLE"


class Exhausted(EngineError):
    """A server, or what stands before it, is out of something, and does not say until when.

    Not raised here: the client's word for a status that does not come from this engine's queue.
    """

    code = "RESOURCE_EXHAUSTED"


class MessageTooLarge(EngineError):
    """A message is longer than the other side reads; gRPC itself refuses it."""

    code = "RESOURCE_EXHAUSTED"


class Unauthenticated(EngineError):
    """The call carries no token, or one that is not in the server's file."""

    code = "UNAUTHENTICATED"


class PermissionDenied(EngineError):
    """The client's token lacks the scope of the method."""

    code = "PERMISSION_DENIED"


class NotFound(EngineError):
    """The request names something that is not here."""

    code = "NOT_FOUND"


class UnknownLabel(NotFound):
    """The request asks for a label that is not served here."""


class UnknownItem(NotFound):
    """The request is about an item that the catalogue does not know."""


class UnknownModel(NotFound):
    """A request of the Open Inference Protocol names a model that is not here."""


class InvalidRequest(EngineError):
    """A field of the request is out of range; the same request will never succeed."""

    code = "INVALID_ARGUMENT"


class CatalogueFull(EngineError):
    """No spare row is left in the item tables."""

    code = "RESOURCE_EXHAUSTED"
    reason = "catalogue-full"


class StoreFailed(EngineError):
    """The catalogue's store is out of reach; what it acknowledged before is safe."""

    code = "UNAVAILABLE"


class Overloaded(EngineError):
    """The queue is full; the caller may retry after `retry_after_ms`."""

    code = "RESOURCE_EXHAUSTED"

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class RateExceeded(Overloaded):
    """The client asks more often than it may; it may go on after `retry_after_ms`."""

    reason = "rate-exceeded"


class DeadlineTooShort(EngineError):
    """The answer would come (or came) after the caller's deadline."""

    code = "DEADLINE_EXCEEDED"


class DeviceFailed(EngineError):
    """CUDA or TensorRT refuses a call; the text is its own reason, for the log."""


class RunnerFailed(EngineError):
    """The computation failed; the server's log says why, the caller is not told."""


class EncoderEnded(RunnerFailed):
    """The process that encodes was ended while it was at something, by whatever it was."""


class Bug(RunnerFailed):
    """Something that nobody foresaw; logged with its traceback where it was met."""


class CallerLeft(EngineError):
    """Nobody waits for the answer any more; never sent, only counted."""

    code = "CANCELLED"


CODES = (
    FailedPrecondition,
    Unavailable,
    Unauthenticated,
    PermissionDenied,
    NotFound,
    InvalidRequest,
    DeadlineTooShort,
    RunnerFailed,
)


# How gRPC's implementations say that a message is too long: C++, Python and Go; Java.
TOO_LONG = ("larger than max", "exceeds maximum size")


def from_status(
    code: str, details: str, retry_after_ms: int | None = None, reason: str = ""
) -> EngineError:
    """Return the error that a gRPC status stands for; the inverse of each class's `code`.

    `retry_after_ms` and `reason` are what the server said beside it.
    """
    if code == Overloaded.code:
        return _exhausted(details, retry_after_ms, reason)
    if code == "CANCELLED":  # not by the caller, who gets no status then
        return Unavailable(
            f"the server ended the call: more calls wait than it reads, or it stops ({details})"
        )
    for error in CODES:
        if code == error.code:
            return error(details)
    return EngineError(f"{code}: {details}")


def _exhausted(details: str, retry_after_ms: int | None, reason: str) -> EngineError:
    """Return the error of a RESOURCE_EXHAUSTED: what is said beside it tells which.

    Where nothing is said, neither this engine's queue nor its catalogue speaks: gRPC itself, whose
    texts are known, or another server or proxy.
    """
    if reason == CatalogueFull.reason:
        return CatalogueFull(details)
    if retry_after_ms is not None:
        kind = RateExceeded if reason == RateExceeded.reason else Overloaded
        return kind(details, retry_after_ms)
    if any(words in details.lower() for words in TOO_LONG):
        return MessageTooLarge(details)
    return Exhausted(details)
