"""A client that begins calls and takes each back at once, as fast as it can (CVE-2023-44487)."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.serving import PATIENCE_S, Served, serving
from support.tally import Tally, rounds
from support.tiny_bundle import Sizes, publish

from mmsr.engine.client import RecommenderClient, Retries

CALLS = rounds(20_000, 400_000)
AT_ONCE = 500  # between two looks at whether others are answered
LOOKS = 10
MOST_GROWTH_BYTES = 32 << 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RESET, SETTINGS = 1, 3, 4  # kinds of frames
END_OF_HEADERS, ACKNOWLEDGED = 4, 1  # flags
CANCEL = struct.pack(">I", 8)
DEADLINE_MS = 1e3 * PATIENCE_S
# gRPC refuses whoever calls while it holds as many unread calls as it may, those taken back too.
PATIENT = Retries(tries=1000, budget=1e6)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name: str, value: str) -> bytes:
    """Return one header that no table holds."""
    return b"\0" + b"".join(struct.pack("B", len(text)) + text.encode() for text in (name, value))


REQUEST = b"".join(
    field(*pair)
    for pair in (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/mmsr.v1.Recommender/Recommend"),
        (":authority", "shop"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
)


def begun_and_taken_back(first: int, count: int) -> bytes:
    """Return so many calls, each with its end."""
    return b"".join(
        frame(HEADERS, END_OF_HEADERS, stream, REQUEST) + frame(RESET, 0, stream, CANCEL)
        for stream in range(first, first + 2 * count, 2)
    )


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    """Open a connection whose settings are agreed on."""
    host, _, port = served.target.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as one:
        one.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        assert one.recv(1)  # those of the server come first
        one.sendall(frame(SETTINGS, ACKNOWLEDGED, 0, b""))
        yield one


def resident_bytes(served: Served) -> int:
    """Return what the server's process holds."""
    for line in Path(f"/proc/{served.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmRSS")


def test_calls_begun_and_taken_back_at_once(tmp_path: Path, tally: Tally) -> None:
    """Calls that are begun and taken back at once, on one connection, while others ask."""
    shop = publish(tmp_path / "repository", Sizes(items=60, probes=8))
    right = [item for item, _ in shop.twin.recommend(["item-1"], 5, ["item-1"])]
    with serving(shop.root) as served, RecommenderClient(served.target, retries=PATIENT) as client:

        def answers_rightly() -> bool:
            answer = client.recommend(["item-1"], 5, deadline_ms=DEADLINE_MS)
            return [item for item, _ in answer.items] == right

        assert answers_rightly()
        before = resident_bytes(served)
        with connected(served) as one:
            for number in range(CALLS // AT_ONCE):
                one.sendall(begun_and_taken_back(1 + 2 * AT_ONCE * number, AT_ONCE))
                looked = number % (CALLS // AT_ONCE // LOOKS) == 0
                if looked and not answers_rightly():
                    tally.lose(f"a wrong answer after {number * AT_ONCE} calls")
            grown = resident_bytes(served) - before
        if grown > MOST_GROWTH_BYTES:
            tally.lose(f"{grown >> 20} MiB more are held")
        elif answers_rightly():
            tally.survived("others are answered, some on a later try; little memory is taken")
        tally.tried += CALLS - 1
        assert served.process.poll() is None, served.log
    tally.check(at_least=CALLS)
