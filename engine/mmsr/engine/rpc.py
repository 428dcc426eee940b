"""Calls of the server: bytes to messages, errors to statuses, for every service alike.

Knows gRPC and the error tree; knows no method. A service's face gives its methods to `Rpc`, which
asks the gatekeeper first and tells the meter last.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from mmsr.engine.errors import EngineError, InvalidRequest, Overloaded, RunnerFailed
from mmsr.engine.flights import Flights
from mmsr.engine.wire import RETRY_AFTER

if TYPE_CHECKING:  # gRPC's own class has no parameters at run time
    Handler = grpc.RpcMethodHandler[bytes, Any]
else:
    Handler = grpc.RpcMethodHandler

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
OK = "OK"


class Call(NamedTuple):
    """What a method is told beside its message."""

    method: str  # "mmsr.v1.Recommender/Recommend"
    arrived: float  # point of the server's clock
    deadline: float | None  # of the same clock
    client: str = ""  # who calls, by the token; "" where nobody is asked
    metadata: Mapping[str, str | bytes] = {}


class Gatekeeper(Protocol):
    """Decides who may call what."""

    def admit(self, method: str, metadata: Mapping[str, str | bytes]) -> str:
        """Return the caller's name; raise an `EngineError` whose code refuses the call."""


class Meter(Protocol):
    """Counts calls."""

    def ended(self, call: Call, code: str, seconds: float) -> None:
        """Note that a call ended with a gRPC status, "OK" or another."""


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
        self._gatekeeper = gatekeeper
        self._meter = meter
        self.last_call = clock()
        self.flights = Flights()  # of calls with one request

    @property
    def guarded(self) -> bool:
        """Whether callers are asked who they are."""
        return self._gatekeeper is not None

    def unary(
        self, method: str, request_type: type[Request], answer: Unary[Request, Response]
    ) -> Handler:
        """Return the handler of a method with one request and one response."""

        async def handle(message: bytes, context: Context) -> Response | None:
            call, code = Call(method, self._arrive(), None), OK
            era = self.flights.begin()
            try:
                call = self._admit(call, context)
                return await answer(parse(request_type, message), call)
            except EngineError as error:
                code = error.code
                await abort(context, error)
            except Exception:  # outermost: a bug must not take the server down
                log.exception("%s failed", method)
                code = RunnerFailed.code
                await abort(context, RunnerFailed("internal error"))
            finally:
                self.flights.end(era)
                self._leave(call, code)

        return grpc.unary_unary_rpc_method_handler(handle, response_serializer=serialise)

    def stream(
        self, method: str, request_type: type[Request], answer: Streaming[Request, Response]
    ) -> Handler:
        """Return the handler of a method with a stream of requests and one of responses."""

        async def handle(messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            call, code = Call(method, self._arrive(), None), OK
            try:
                call = self._admit(call, context)
                async for response in answer(self._parsed(request_type, messages), call):
                    yield response
            except EngineError as error:
                code = error.code
                await abort(context, error)
            except Exception:  # outermost: a bug must not take the server down
                log.exception("%s failed", method)
                code = RunnerFailed.code
                await abort(context, RunnerFailed("internal error"))
            finally:
                self._leave(call, code)

        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=serialise)

    async def _parsed(
        self, request_type: type[Request], messages: AsyncIterator[bytes]
    ) -> AsyncIterator[Request]:
        async for message in messages:
            self._arrive()
            yield parse(request_type, message)

    def _arrive(self) -> float:
        self.last_call = now = self._clock()
        return now

    def _admit(self, call: Call, context: Context) -> Call:
        left_s = context.time_remaining()
        # None without a deadline, whatever the annotation says.
        deadline = None if left_s is None else call.arrived + left_s
        if self._gatekeeper is None:
            return Call(call.method, call.arrived, deadline)
        metadata = dict(context.invocation_metadata() or ())
        client = self._gatekeeper.admit(call.method, metadata)
        return Call(call.method, call.arrived, deadline, client, metadata)

    def _leave(self, call: Call, code: str) -> None:
        if self._meter is not None:
            self._meter.ended(call, code, self._clock() - call.arrived)


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
    retry: tuple[tuple[str, str], ...] = ()
    if isinstance(error, Overloaded):
        retry = ((RETRY_AFTER, str(error.retry_after_ms)),)
    await context.abort(grpc.StatusCode[error.code], str(error), retry)
    raise AssertionError("abort returned")
