"""Calls of the server: bytes to messages, errors to statuses, for every service alike.

Knows gRPC and the error tree; knows no method. A service's face gives its methods to `Rpc`, which
asks the gatekeeper first and tells the meter last.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from mmsr.engine.errors import (
    Bug,
    CallerLeft,
    EngineError,
    InvalidRequest,
    Overloaded,
    RateExceeded,
)
from mmsr.engine.flights import Flights
from mmsr.engine.wire import REASON, REQUEST_ID, RETRY_AFTER

if TYPE_CHECKING:  # gRPC's own class has no parameters at run time
    Handler = grpc.RpcMethodHandler[bytes, Any]
else:
    Handler = grpc.RpcMethodHandler

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
OK = "OK"
LOGGED_CHARACTERS = 128
MOST_ROWS = 1024  # that a shape, which nobody has checked yet, may cost


class Call(NamedTuple):
    """What a method is told beside its message."""

    method: str  # "mmsr.v1.Recommender/Recommend"
    arrived: float  # point of the server's clock
    deadline: float | None  # of the same clock
    client: str = ""  # who calls, by the token; "" where nobody is asked
    metadata: Mapping[str, str | bytes] = {}


class Outcome(NamedTuple):
    """How a call ended."""

    seconds: float
    error: EngineError | None = None  # None: it was answered
    request: Message | None = None  # None: it could not be read; of a stream, the last one
    response: Message | None = None  # None of an error and of a stream

    @property
    def code(self) -> str:
        """The gRPC status."""
        return OK if self.error is None else self.error.code


class Gatekeeper(Protocol):
    """Decides who may call what."""

    def admit(self, method: str, metadata: Mapping[str, str | bytes]) -> str:
        """Return the caller's name; raise an `EngineError` whose code refuses the call.

        Of a stream, each message is asked for.
        """

    def owe(self, client: str, requests: int) -> None:
        """Note that a message holds so many requests beside the first."""


class Meter(Protocol):
    """Counts calls."""

    reads_metadata: bool  # else it is only there where the call failed

    def began(self, method: str) -> None:
        """Note that a call has come."""

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Note one response of a stream and the latest request that was read before it."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Note that a call ended."""


Unary = Callable[[Request, Call], Awaitable[Response]]
Streaming = Callable[[AsyncIterator[Request], Call], AsyncIterator[Response]]


class Rpc:
    """Makes gRPC's handlers of methods that take and give messages and raise `EngineError`."""

    def __init__(
        self,
        clock: Callable[[], float],
        gatekeeper: Gatekeeper | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._clock = clock
        self.gatekeeper = gatekeeper
        self.meter = meter
        self.last_call = clock()
        self.flights = Flights()  # of calls with one request

    @property
    def guarded(self) -> bool:
        """Whether callers are asked who they are."""
        return self.gatekeeper is not None

    def unary(
        self, method: str, request_type: type[Request], answer: Unary[Request, Response]
    ) -> Handler:
        """Return the handler of a method with one request and one response."""
        count = counter_of(request_type)

        async def handle(message: bytes, context: Context) -> Response | None:
            era = self.flights.begin()
            call = self._arrive(method)
            request, response, error = None, None, None
            try:
                call = self._admit(call, context)
                request = parse(request_type, message)
                self._charge(call, count(request))
                response = await answer(request, call)
                return response
            except EngineError as refused:
                error = refused
                await abort(context, refused)
            except asyncio.CancelledError:
                error = CallerLeft()
                raise
            except Exception:  # outermost: a bug must not take the server down
                error = self._bug(call, context)
                await abort(context, error)
            finally:
                self.flights.end(era)
                self._leave(call, context, error, (request, response))

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=serialise)

    def stream(
        self, method: str, request_type: type[Request], answer: Streaming[Request, Response]
    ) -> Handler:
        """Return the handler of a method with a stream of requests and one of responses."""

        async def handle(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            call, error = self._arrive(method), None
            requests = Requests(self, request_type, messages)
            try:
                call = self._admit(call, context)
                async for response in answer(requests.read(call), call):
                    yield response
                    if self.meter is not None:
                        self.meter.streamed(call, requests.latest, response)
            except EngineError as refused:
                error = refused
                await abort(context, refused)
            except (asyncio.CancelledError, GeneratorExit):
                error = CallerLeft()
                raise
            except Exception:  # outermost: a bug must not take the server down
                error = self._bug(call, context)
                await abort(context, error)
            finally:
                self._leave(call, context, error, (requests.latest, None))

        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=serialise)

    def _arrive(self, method: str) -> Call:
        self.last_call = now = self._clock()
        if self.meter is not None:
            self.meter.began(method)
        return Call(method, now, None)

    def _admit(self, call: Call, context: Context) -> Call:
        left_s = context.time_remaining()
        # None without a deadline, whatever the annotation says.
        deadline = None if left_s is None else call.arrived + left_s
        if self.gatekeeper is None and (self.meter is None or not self.meter.reads_metadata):
            return Call(call.method, call.arrived, deadline)
        metadata = metadata_of(context)
        client = ""
        if self.gatekeeper is not None:
            client = self.gatekeeper.admit(call.method, metadata)
        return Call(call.method, call.arrived, deadline, client, metadata)

    def _charge(self, call: Call, requests: int) -> None:
        if requests > 1 and self.gatekeeper is not None:
            self.gatekeeper.owe(call.client, requests - 1)

    async def next_message(self, call: Call, requests: int) -> None:
        """Return when the next message of a stream may be taken: one too many waits, unread."""
        self.last_call = self._clock()
        if self.gatekeeper is None:
            return
        while True:
            try:
                self.gatekeeper.admit(call.method, call.metadata)
            except RateExceeded as error:
                await asyncio.sleep(error.retry_after_ms / 1e3)
            else:
                self._charge(call, requests)
                return

    def _bug(self, call: Call, context: Context) -> EngineError:
        error = Bug("internal error")
        fields = described(call, metadata_of(context)) | {"code": error.code}
        log.exception("%s failed", call.method, extra={"fields": fields})
        return error

    def _leave(
        self,
        call: Call,
        context: Context,
        error: EngineError | None,
        messages: tuple[Message | None, Message | None],
    ) -> None:
        if self.meter is None:
            return
        if error is not None and not call.metadata:
            call = call._replace(metadata=metadata_of(context))
        self.meter.ended(call, Outcome(self._clock() - call.arrived, error, *messages))


class Requests(Generic[Request]):
    """The messages of a stream, read one by one."""

    def __init__(
        self, rpc: Rpc, request_type: type[Request], messages: AsyncIterator[bytes]
    ) -> None:
        self._rpc = rpc
        self._type = request_type
        self._messages = messages
        self.latest: Request | None = None

    async def read(self, call: Call) -> AsyncIterator[Request]:
        """Yield the requests; `InvalidRequest` at one that is none."""
        count = counter_of(self._type)
        async for message in self._messages:
            request = parse(self._type, message)
            await self._rpc.next_message(call, count(request))
            self.latest = request
            yield request


def counter_of(request_type: type[Request]) -> Callable[[Request], int]:
    """Return what tells how many requests or items a message holds; limits go by them."""
    fields = request_type.DESCRIPTOR.fields_by_name
    for name in ("requests", "items"):
        if name in fields:
            return lambda request: len(getattr(request, name))
    if "inputs" in fields:
        return rows_of
    return lambda request: 1


def rows_of(request: Any) -> int:
    """Return how many histories a request of the Open Inference Protocol says that it holds."""
    shape = request.inputs[0].shape if request.inputs else ()
    return min(max(1, shape[0]), MOST_ROWS) if shape else 1


def metadata_of(context: Context) -> dict[str, str | bytes]:
    """Return what the caller sent beside the message."""
    return dict(context.invocation_metadata() or ())


def request_id_of(metadata: Mapping[str, str | bytes]) -> str:
    """Return the caller's own id of the call; "" if there is none, or none fit to be logged."""
    value = metadata.get(REQUEST_ID, "")
    return value if isinstance(value, str) and is_loggable(value) else ""


def is_loggable(text: str) -> bool:
    """Tell whether a caller's text may stand in a log line: short, one line, no odd characters."""
    return len(text) <= LOGGED_CHARACTERS and text.isascii() and text.isprintable()


def described(call: Call, metadata: Mapping[str, str | bytes]) -> dict[str, str]:
    """Return what a log line says of a call; nothing of what it asks."""
    fields = {
        "method": call.method,
        "client": call.client,
        "request_id": request_id_of(metadata),
    }
    return {name: value for name, value in fields.items() if value}


def register(
    server: grpc.aio.Server,
    service: str,
    handlers: dict[str, Handler],
) -> None:
    """Add a service's methods to a server that has not started.

    Not by the generated function: its deserializer would answer a malformed message with UNKNOWN
    and write a traceback to the log.
    """
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_registered_method_handlers(service, handlers)


def parse(request_type: type[Request], message: bytes) -> Request:
    """Decode a request; `InvalidRequest` if it is none."""
    try:
        return request_type.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(
            f"{len(message)} bytes that are no {request_type.DESCRIPTOR.full_name} ({error}); "
            "expected one, with texts in UTF-8"
        ) from None


def serialise(response: Message) -> bytes:
    """Encode a response."""
    return response.SerializeToString()


async def abort(context: Context, error: EngineError) -> NoReturn:
    """End the call with the error's status."""
    trailing: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        trailing = ((RETRY_AFTER, str(error.retry_after_ms)),)
    if error.reason:
        trailing = (*trailing, (REASON, error.reason))
    # Of a call that was answered the caller needs no id back; so only errors pay for it.
    if request_id := request_id_of(metadata_of(context)):
        trailing = (*trailing, (REQUEST_ID, request_id))
    await context.abort(grpc.StatusCode[error.code], str(error), trailing)
    raise AssertionError("abort returned")
