"""The server's side of a worker process: starts it, asks it, ends it when it takes too long."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmsr.bundle.preprocess import ImageError
from mmsr.engine.catalogue.frames import read_frame, write_frame
from mmsr.engine.errors import EncoderEnded, RunnerFailed

PROGRAM = "mmsr.engine.catalogue.worker"
END_S = 5.0  # for a worker that nobody asks any more
log = logging.getLogger(__name__)


class DecoderEndedError(ImageError):
    """The process that decodes was ended while it was at an image, by that or by something else."""


class Worker:
    """One process at a time; the next question after its end starts another. One caller at a time.

    `address_space`: bytes that it may have, or None.
    """

    def __init__(self, role: str, address_space: int | None) -> None:
        self._role = role
        self._address_space = address_space
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id; None while there is none."""
        return None if self._process is None else self._process.pid

    def ask(
        self, header: Mapping[str, Any], payload: bytes, limit_s: float
    ) -> tuple[dict[str, Any], bytes]:
        """Return the answer.

        `ImageError`: the image cannot be used; `DecoderEndedError`: using it ended the process, or
        something else did. `RunnerFailed`, `EncoderEnded`: anything else went wrong.
        """
        process = self._running()
        answer, is_late = _exchange(process, dict(header), payload, limit_s)
        if answer is None:
            self._end()
            raise self._ended(process.returncode, limit_s if is_late else None)
        said, values = answer
        if "refused" in said:
            raise ImageError(said["refused"])
        if "failed" in said:
            if self._role == "decode":
                raise ImageError(f"unreadable image: {said['failed']}")
            log.error("encoding failed: %s", said["failed"])
            raise RunnerFailed("encoding failed")
        return said, values

    def kill(self) -> None:
        """End the process, from any thread; a question that it is at fails."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process while nobody asks it."""
        if self._process is not None:
            self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            limits = [] if self._address_space is None else [str(self._address_space)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, self._role, *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
            log.info("started process %d to %s", self._process.pid, self._role)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        process.wait(END_S)
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still to be written has no reader
                pipe.close()

    def _ended(self, code: int | None, limit_s: float | None) -> ImageError | RunnerFailed:
        why = f"code {code}" if limit_s is None else f"it took longer than {limit_s:g} s"
        log.warning("the process to %s ended (%s); the next image starts another", self._role, why)
        if self._role != "decode":
            return RunnerFailed("encoding failed") if limit_s else EncoderEnded("encoding failed")
        if limit_s is not None:
            return ImageError(f"decoding it takes longer than {limit_s:g} s")
        return DecoderEndedError("decoding it ended the process that did")


def _exchange(
    process: "subprocess.Popen[bytes]", header: dict[str, Any], payload: bytes, limit_s: float
) -> tuple[tuple[dict[str, Any], bytes] | None, bool]:
    """Return the answer, None if the process has ended, and whether it was ended for its time."""
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        write_frame(process.stdin, header, payload)
        answer = read_frame(process.stdout)
    except OSError:  # it has ended
        answer = None
    finally:
        timer.cancel()
    return (None, late.is_set()) if answer is None else (answer, False)
