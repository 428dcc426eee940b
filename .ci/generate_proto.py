"""Regenerate the Python code of the .proto files, in place or below a given folder."""

import os
import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]


def generate(out: Path) -> None:
    """Write *_pb2.py, *_pb2_grpc.py and their stubs below `out`."""
    protos = sorted(str(p.relative_to(ROOT / "proto")) for p in ROOT.glob("proto/mmsr/**/*.proto"))
    options = ["python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out"]
    arguments = ["protoc", f"-I{ROOT / 'proto'}", *(f"--{o}={out}" for o in options), *protos]
    # protoc looks for mypy-protobuf's plugins on the PATH; they lie beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    if protoc.main(arguments):
        raise SystemExit("protoc failed")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "proto")
