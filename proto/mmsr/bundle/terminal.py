"""The outermost edge of every command: errors become one line and an exit code."""

import sys

import typer

from mmsr.bundle.errors import MmsrError, printable

# What an extra brings, so that its absence can be named. Everything else missing is a bug.
EXTRA_OF_MODULE = {
    "torch": "training",
    "torchvision": "training",
    "transformers": "training",
    "safetensors": "training",
    "matplotlib": "training",
    "PIL": "engine",
    "grpc": "engine",
    "grpc_health": "engine",
    "grpc_reflection": "engine",
    "grpc_channelz": "engine",
    "prometheus_client": "engine",
    "opentelemetry": "otel",
    "google": "engine",
    "onnxruntime": "engine",
    "tokenizers": "engine",
    "hdrh": "engine",
    "onnx": "export",
    "onnxscript": "export",
    "fsspec": "export",
}

MOST_SAID = 4000  # characters of one error: what it quotes may be a file's whole first line


def shown(text: str) -> str:
    """Return an error as a terminal may get it: it may quote anything, at any length."""
    clipped = text if len(text) <= MOST_SAID else f"{text[:MOST_SAID]}…"
    return "\n".join(map(printable, clipped.split("\n")))


KNOWN = (MmsrError, OSError, MemoryError, ModuleNotFoundError)


def explained(error: BaseException) -> tuple[str, int] | None:
    """Return what a person is told of an error, and the exit code; None: it is a bug."""
    if isinstance(error, MmsrError):
        return str(error), error.exit_code
    if isinstance(error, OSError):  # no permission, no space, a file where a folder should be
        path = error.filename2 or error.filename  # of a rename, the target
        return f"{f'{path}: ' if path else ''}{error.strerror or error}", 1
    if isinstance(error, MemoryError):
        return "out of memory; give this command more, or less to read", 1
    if isinstance(error, ModuleNotFoundError):
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is not None:
            return f"this command needs {error.name}: pip install 'mmsr[{extra}]'", 1
    return None


def run(app: typer.Typer) -> None:
    """Run `app`; a known error is one line on standard error and its exit code."""
    try:
        app()
    except KNOWN as error:
        told = explained(error)
        if told is None:
            raise
        print(f"error: {shown(told[0])}", file=sys.stderr)
        sys.exit(told[1])
