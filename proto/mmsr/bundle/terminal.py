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


def run(app: typer.Typer) -> None:
    """Run `app`; a known error is one line on standard error and its exit code."""
    try:
        app()
    except MmsrError as error:
        print(f"error: {shown(str(error))}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # no permission, no space, a file where a folder should be
        path = error.filename2 or error.filename  # of a rename, the target
        where = f"{path}: " if path else ""
        print(f"error: {shown(f'{where}{error.strerror or error}')}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: out of memory; give this command more, or less to read", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRA_OF_MODULE.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"error: this command needs {error.name}: pip install 'mmsr[{extra}]'", file=sys.stderr
        )
        sys.exit(1)
