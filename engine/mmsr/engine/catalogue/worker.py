"""A process beside the server that decodes images, or encodes pixels and texts.

`python -m mmsr.engine.catalogue.worker decode|encode [BYTES]`: reads requests from its input and
answers on its output until the input ends, which it does with the server. It runs at low priority
and, if told so, in a bounded address space.
"""

# B items of one call (always 1), S side of the image in pixels, T tokens

import io
import logging
import os
import resource
import signal
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mmsr.engine.catalogue.frames import read_frame, write_frame

if TYPE_CHECKING:
    from mmsr.engine.runners.onnx import OnnxRunner

NICENESS = 10  # of -20 to 19; serving has 0
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
TOKENIZER = "tokenizer.json"
KEPT = 4  # encoders in memory; a bundle has two, and another one may be on its way
Answer = tuple[dict[str, Any], bytes]


def decode(header: dict[str, Any], file: bytes) -> Answer:
    """Return the pixels uint8 [S, S, 3] of an image file, as training decodes it."""
    from PIL import Image, UnidentifiedImageError

    from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels

    spec = ImagePreprocess(**header["preprocess"])
    Image.MAX_IMAGE_PIXELS = None  # `load_pixels` has its own limit, from the header alone
    try:
        Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError(
            f"not an image of a known format ({len(file)} bytes); expected JPEG, PNG, WebP or GIF"
        ) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"unreadable image: {error}") from None
    pixels = load_pixels(file, spec)
    return {"shape": list(pixels.shape)}, pixels.tobytes()


class _Loaded(NamedTuple):
    runner: "OnnxRunner"
    tokenizer: Any  # of a text encoder


class Encoding:
    """The encoders that were needed lately."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()

    def encode(self, header: dict[str, Any], payload: bytes) -> Answer:
        """Return the feature float32 [F] of pixels or of a text."""
        loaded = self._encoder(header)
        if header["modality"] == "image":
            pixels = np.frombuffer(payload, np.uint8).reshape(1, *header["shape"])
            batch = {"pixels": pixels}
        else:
            [tokens] = loaded.tokenizer.encode_batch([payload.decode()])
            batch = {
                "input_ids": np.array([tokens.ids], np.int64),
                "attention_mask": np.array([tokens.attention_mask], np.int64),
            }
        feature_F = loaded.runner.run(batch)["feature"][0].astype(np.float32)
        if not np.isfinite(feature_F).all():
            raise ValueError("the encoder answers values that are not finite")
        return {}, feature_F.tobytes()

    def _encoder(self, header: dict[str, Any]) -> _Loaded:
        from mmsr.bundle.manifest import load_manifest
        from mmsr.engine.runners.onnx import open_onnx

        key = header["key"]
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return self._loaded[key]
        if len(self._loaded) == KEPT:
            self._loaded.popitem(last=False)[1].runner.close()
        folder, modality = Path(header["folder"]), header["modality"]
        spec = load_manifest(folder).graphs[f"{modality}_encoder"]
        tokenizer = None
        if modality == "text":
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        runner = open_onnx(folder / spec.file, spec, threads=1)
        self._loaded[key] = _Loaded(runner, tokenizer)
        return self._loaded[key]


def answer_all(
    requests: IO[bytes], answers: IO[bytes], answer: Callable[[dict[str, Any], bytes], Answer]
) -> None:
    """Answer until nobody asks any more."""
    from mmsr.bundle.preprocess import ImageError

    while (request := read_frame(requests)) is not None:
        try:
            header, payload = answer(*request)
        except ImageError as error:
            header, payload = {"refused": str(error)}, b""
        except MemoryError:
            header, payload = {"refused": "it takes more memory than an image may"}, b""
        except Exception as error:  # outermost: whatever else a damaged file provokes in Pillow
            header, payload = {"failed": f"{type(error).__name__}: {error}"}, b""
        write_frame(answers, header, payload)


def main(role: str, address_space: int | None) -> None:
    """Be a worker until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    os.nice(NICENESS)
    warnings.simplefilter("ignore")  # Pillow remarks on odd metadata
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if address_space is not None:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    try:
        answer_all(sys.stdin.buffer, answers, decode if role == "decode" else Encoding().encode)
    except BrokenPipeError:  # the server has gone
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
