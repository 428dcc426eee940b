"""Messages between the server and its worker processes: a JSON header and bytes, over a pipe."""

import json
import struct
from typing import IO, Any

SIZES = struct.Struct("<II")  # bytes of the header, bytes of the payload


def write_frame(pipe: IO[bytes], header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message; `OSError` if nobody reads."""
    said = json.dumps(header).encode()
    pipe.write(SIZES.pack(len(said), len(payload)) + said)
    pipe.write(payload)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """Read one message; None when the other side has gone."""
    sizes = pipe.read(SIZES.size)
    if len(sizes) < SIZES.size:
        return None
    of_header, of_payload = SIZES.unpack(sizes)
    said, payload = pipe.read(of_header), pipe.read(of_payload)
    if len(said) < of_header or len(payload) < of_payload:
        return None
    return json.loads(said), payload
