"""Messages that no caller should send, made from those that one may. Seeded: a run can be repeated.

A message is filled by its descriptor with values at and beyond every limit, encoded, and then, for
most, damaged: bits turned over, pieces cut out, doubled or exchanged, other fields put in between.
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message
from support.tiny_live import picture

TIMEOUT_S = 60.0
AT_ONCE = 16
MAX_DEPTH = 4
# A server says these of requests; INTERNAL, UNKNOWN and DATA_LOSS it must never say.
# But grpc.aio's own client says this of a stream that the server ended while it was writing.
CLIENTS_OWN = ("INTERNAL", "Internal error from Core")
EXPECTED = frozenset(
    {
        *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
        *("FAILED_PRECONDITION", "ALREADY_EXISTS", "ABORTED", "UNIMPLEMENTED", "OUT_OF_RANGE"),
    }
)
TAME_SHARE = 0.6  # of the messages are right before they are damaged: they reach the computation
KNOWN = ("item-1", "item-2", "item-3", "item-50", "item-299", "new-1", "new-2")
TAME_WHOLES = (1, 2, 5, 10)
TAME_NUMBERS = (0.0, 0.5, 1.0, -1.0)
TAME_COUNTS = {"image_features": (0, 3), "text_features": (0, 5)}  # as the live fixture has them
TAME_TEXTS = {
    "label": ("", "stable"),
    "name": ("recommender", "history", "k"),
    "model_name": ("recommender", "image_encoder", "text_encoder"),
    "datatype": ("BYTES", "INT32"),
}
TEXTS = (
    *("", "item-1", "item-2", "item-299", "stable", "other", "nobody", "a,b", "ä€😀", "\0", "\n"),
    *("x" * 512, "x" * 513, "ü" * 257, "%s%n{}", "../../etc/passwd", "' OR 1=1 --", "DEBUG"),
)
WHOLES = (0, 1, 2, 5, 10, 99, 1000, 1001, 2**31 - 1, 2**31, 2**32 - 1)
BIG_WHOLES = (*WHOLES, 2**53, 2**63 - 1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("inf"), float("-inf"), float("nan"))
COUNTS = (0, 0, 1, 1, 1, 2, 3, 8)
MANY = (1001, 1025, 10_001)  # just over the limits on what one request may hold
MANY_SHARE = 0.002
PICTURE = picture((250, 10, 10))
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452ffffffffffffffff08060000001f15c489")


class Target(NamedTuple):
    """A method that is called."""

    address: str  # HOST:PORT
    path: str  # "/package.Service/Method"
    request: type[Message]
    streams: bool


def targets_of(
    address: str, services: Sequence[ServiceDescriptor], without: frozenset[str]
) -> list[Target]:
    """Return the methods of services, but for those named."""
    return [
        Target(
            address, f"/{service.full_name}/{each.name}", request_of(each), each.client_streaming
        )
        for service in services
        for each in service.methods
        if each.name not in without
    ]


def request_of(method: MethodDescriptor) -> type[Message]:
    """Return the class of a method's requests."""
    found: type[Message] = message_factory.GetMessageClass(method.input_type)
    return found


class Fuzzer:
    """Makes messages."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._tame = False

    def message(self, kind: type[Message]) -> bytes:
        """Return the bytes of one message, or what is left of one."""
        filled = kind()
        self._tame = self.random.random() < TAME_SHARE
        self._fill(filled, 0)
        data = filled.SerializeToString()
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2, 5))):
            data = self.random.choice(DAMAGES)(self.random, data)
        return data

    def _fill(self, message: Any, depth: int) -> None:
        for each in message.DESCRIPTOR.fields:
            if self.random.random() < 0.6:
                self._set(message, each, depth)

    def _set(self, message: Any, each: FieldDescriptor, depth: int) -> None:
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            self._put(getattr(message, each.name), each.message_type, depth)
        elif each.is_repeated and each.message_type is None and self.random.random() < MANY_SHARE:
            count, value = self.random.choice(MANY), self._value(each)
            getattr(message, each.name).extend([value] * count)
        elif each.is_repeated:
            for _ in range(self.random.choice(self._counts(each))):
                if each.message_type is None:
                    getattr(message, each.name).append(self._value(each))
                elif depth < MAX_DEPTH:
                    self._fill(getattr(message, each.name).add(), depth + 1)
        elif each.message_type is not None:
            inside = getattr(message, each.name)
            inside.SetInParent()
            if depth < MAX_DEPTH:
                self._fill(inside, depth + 1)
        else:
            setattr(message, each.name, self._value(each))

    def _counts(self, each: FieldDescriptor) -> tuple[int, ...]:
        return TAME_COUNTS.get(each.name, COUNTS) if self._tame else COUNTS

    def _put(self, entries: Any, entry: Descriptor, depth: int) -> None:
        key, value = (self._value(entry.fields_by_name[name]) for name in ("key", "value"))
        if entry.fields_by_name["value"].message_type is None:
            entries[key] = value
        elif depth < MAX_DEPTH:
            self._fill(entries[key], depth + 1)

    def _value(self, each: FieldDescriptor) -> Any:
        pick = self.random.choice
        match each.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if each.type == FieldDescriptor.TYPE_BYTES:
                wild = (b"", PNG, self.random.randbytes(pick((1, 40, 3000))))
                return pick((b"", b"", PICTURE) if self._tame else wild)
            case FieldDescriptor.CPPTYPE_STRING:
                if self._tame:
                    return pick(TAME_TEXTS.get(each.name, KNOWN))
                return pick(TEXTS)
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return pick(TAME_NUMBERS if self._tame else NUMBERS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return pick((False, True))
            case FieldDescriptor.CPPTYPE_ENUM:
                return pick((0, 1, 2, 99, 2**31 - 1))
            case FieldDescriptor.CPPTYPE_INT64 | FieldDescriptor.CPPTYPE_UINT64:
                return pick(TAME_WHOLES if self._tame else BIG_WHOLES)
            case FieldDescriptor.CPPTYPE_INT32:
                return pick((0, 1, -1, 2**31 - 1, -(2**31)))
        return pick(TAME_WHOLES if self._tame else WHOLES)


Damage = Callable[[random.Random, bytes], bytes]


def turn_bits(choose: random.Random, data: bytes) -> bytes:
    """Turn a few bits over."""
    damaged = bytearray(data)
    for _ in range(choose.randint(1, 8)):
        if damaged:
            damaged[choose.randrange(len(damaged))] ^= 1 << choose.randrange(8)
    return bytes(damaged)


def cut(choose: random.Random, data: bytes) -> bytes:
    """Leave out a piece."""
    start, end = sorted((choose.randint(0, len(data)), choose.randint(0, len(data))))
    return data[:start] + data[end:]


def double(choose: random.Random, data: bytes) -> bytes:
    """Put a piece in twice, elsewhere."""
    start, end = sorted((choose.randint(0, len(data)), choose.randint(0, len(data))))
    place = choose.randint(0, len(data))
    return data[:place] + data[start:end] + data[place:]


def insert(choose: random.Random, data: bytes) -> bytes:
    """Put random bytes in."""
    place = choose.randint(0, len(data))
    return data[:place] + choose.randbytes(choose.choice((1, 2, 8, 300))) + data[place:]


def add_field(choose: random.Random, data: bytes) -> bytes:
    """Append a field of any number and wire type, its length as it should be or not."""
    tag = varint(choose.choice((1, 2, 3, 5, 15, 16, 2047, 2**29 - 1)) << 3 | choose.randrange(8))
    length = choose.choice((0, 1, 5, 2**20, 2**31, 2**63))
    return data + tag + varint(length) + choose.randbytes(choose.choice((0, 1, 5)))


def nest(choose: random.Random, data: bytes) -> bytes:
    """Wrap it in itself, deeper than parsers go."""
    for _ in range(choose.choice((1, 10, 150))):
        data = b"\x0a" + varint(len(data)) + data
    return data


def noise(choose: random.Random, data: bytes) -> bytes:
    """Forget it."""
    return choose.randbytes(choose.choice((0, 1, 10, 100, 5000)))


DAMAGES: tuple[Damage, ...] = (turn_bits, turn_bits, cut, double, insert, add_field, nest, noise)


def varint(number: int) -> bytes:
    """Encode a number as protobuf does."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


@dataclass
class Report:
    """What came back."""

    sent: Counter[str] = field(default_factory=Counter)  # messages, by method
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)  # calls, by method and status
    surprises: list[str] = field(default_factory=list)

    def count(self, target: Target, code: str, messages: Sequence[bytes], details: str) -> None:
        self.sent[target.path] += len(messages)
        self.codes[target.path, code] += 1
        if code not in EXPECTED or "Traceback" in details:
            self.surprises.append(f"{target.path} {code} {details} {messages[-1][:200].hex()}")


async def send(channel: grpc.aio.Channel, target: Target, messages: Sequence[bytes]) -> Any:
    """Make one call; return its status and the details."""

    async def stream() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    try:
        if target.streams:
            streaming: Any = channel.stream_stream(target.path)
            async for _ in streaming(stream(), timeout=TIMEOUT_S):
                pass
        else:
            unary: Any = channel.unary_unary(target.path)
            await unary(messages[0], timeout=TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        told = error.code().name, error.details() or ""
        return ("OK", "") if told == CLIENTS_OWN else told
    return "OK", ""


async def fuzz(targets: Sequence[Target], calls: Iterator[int], seed: int, report: Report) -> None:
    """Call the targets in turn as long as there is a call to be made; several may run at once."""
    fuzzer = Fuzzer(seed)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with AsyncExitStack() as stack:
        channels = {
            address: await stack.enter_async_context(grpc.aio.insecure_channel(address, options))
            for address in {target.address for target in targets}
        }
        for number in calls:
            target = targets[number % len(targets)]
            count = fuzzer.random.randint(1, 5) if target.streams else 1
            messages = [fuzzer.message(target.request) for _ in range(count)]
            code, details = await send(channels[target.address], target, messages)
            report.count(target, code, messages, details)


async def fuzz_all(targets: Sequence[Target], calls: int, seed: int) -> Report:
    """Make that many calls, several at a time on connections of their own."""
    report, numbers = Report(), iter(range(calls))
    await asyncio.gather(*(fuzz(targets, numbers, seed + n, report) for n in range(AT_ONCE)))
    return report


async def garbage(port: int, connections: int, seed: int) -> None:
    """Open connections that do not speak HTTP/2, or stop doing so."""
    choose = random.Random(seed)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for _ in range(connections):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(choose.choice((b"", preface, b"GET / HTTP/1.1\r\n\r\n")))
        writer.write(choose.randbytes(choose.choice((0, 10, 1000, 20_000))))
        writer.close()
        try:
            await writer.wait_closed()
        except OSError:  # the server was first
            continue
