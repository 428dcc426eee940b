"""grpc.channelz.v1: what gRPC itself knows of its connections, for those who may call Admin.

The servicer of grpcio-channelz asks nobody; here its answers go through the server's gatekeeper.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz_pb2
from grpc_channelz.v1.channelz import ChannelzServicer

from mmsr.engine.errors import InvalidRequest
from mmsr.engine.rpc import Call, Rpc, register

SERVICE = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
Answer = Callable[[Any, Call], Awaitable[Message]]


class ChannelzFace:
    """The methods of the channelz service."""

    name: str = SERVICE.full_name

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""
        handlers = {}
        for method in SERVICE.methods:
            request = getattr(channelz_pb2, method.input_type.name)
            handlers[method.name] = rpc.unary(
                f"{self.name}/{method.name}", request, answer_of(method.name)
            )
        register(server, self.name, handlers)


def answer_of(name: str) -> Answer:
    """Return the method of that name, which raises what the servicer tells a context."""
    ask = getattr(ChannelzServicer, name)

    async def answer(request: Any, call: Call) -> Message:
        response: Message = ask(request, _Refusal())
        return response

    return answer


class _Refusal:
    """What the servicer takes for a call's context: it only uses it for ids that are not there."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Wait for the details."""

    def set_details(self, details: str) -> None:
        raise InvalidRequest(f"channelz: {details}")
