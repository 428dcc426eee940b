"""Reads and decodes picture files in worker processes, in order and a few at a time.

A worker imports Pillow and numpy only: torch would cost each of them seconds and half a
gigabyte. Knows nothing of items or encoders.
"""

import hashlib
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt

from mmsr.bundle.preprocess import ImageError, ImagePreprocess, load_pixels
from mmsr.bundle.tables import save_table
from mmsr.training.features.cache import Keys, contains
from mmsr.training.features.config import FeaturesError

FILES_PER_TASK = 8
TASKS_PER_WORKER = 3  # asked for ahead of the encoder; bounds the memory of waiting pixels

Task = tuple[int, str]  # a number of the caller's own, and a path
Answers = list[tuple["Decoded", bool]]  # without pixels; whether there are some


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of one file: pixels, a problem, or neither when the content is known."""

    file: int
    key: bytes | None  # SHA-256 of the content; None when it could not be read
    pixels: npt.NDArray[np.uint8] | None  # [size, size, 3]
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """What a worker must know."""

    preprocess: ImagePreprocess
    known_keys: Path  # .npy, sorted: contents that need no decoding

    def decode(self, task: Task, known: Keys) -> Decoded:
        """Read, hash and, if it is new, decode one file."""
        file, path = task
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            return Decoded(file=file, key=None, pixels=None, problem=error.strerror or str(error))
        key = hashlib.sha256(data).digest()
        if contains(known, np.array([key], "S32"))[0]:
            return Decoded(file=file, key=key, pixels=None, problem=None)
        try:
            pixels = load_pixels(data, self.preprocess)
        except ImageError as error:
            return Decoded(file=file, key=key, pixels=None, problem=str(error))
        except Exception as error:  # whatever else a damaged file provokes in Pillow's plugins
            problem = f"unreadable image: {type(error).__name__}: {error}"
            return Decoded(file=file, key=key, pixels=None, problem=problem)
        return Decoded(file=file, key=key, pixels=pixels, problem=None)


def decode_all(
    tasks: Sequence[Task], decoder: Decoder, workers: int
) -> Generator[Decoded, None, None]:
    """Yield one answer a task, in order.

    A file that brings a worker down (a crash in an image library, memory) is found by trying the
    files that were under way one by one; the others are decoded all the same.
    """
    chunks = deque(
        tuple(tasks[i : i + FILES_PER_TASK]) for i in range(0, len(tasks), FILES_PER_TASK)
    )
    workers = min(workers, len(chunks))
    with TemporaryDirectory(prefix="pixels-", dir=decoder.known_keys.parent) as folder:
        while chunks:
            lost = yield from _until_broken(chunks, decoder, workers, Path(folder))
            yield from _one_by_one(lost, decoder, Path(folder))


def _until_broken(
    chunks: deque[tuple[Task, ...]], decoder: Decoder, workers: int, folder: Path
) -> Generator[Decoded, None, list[Task]]:
    """Work the chunks off; return those under way when a worker died."""
    pending: deque[tuple[tuple[Task, ...], Future[Answers]]] = deque()
    pool = _pool(decoder, workers)
    try:
        while chunks or pending:
            while chunks and len(pending) < workers * TASKS_PER_WORKER:
                pending.append((chunks[0], pool.submit(_work, chunks[0], folder)))
                chunks.popleft()
            yield from _with_pixels(pending[0][1].result(), folder)
            pending.popleft()
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(cancel_futures=True)
    return [task for chunk, _ in pending for task in chunk]


def _one_by_one(tasks: Sequence[Task], decoder: Decoder, folder: Path) -> Iterator[Decoded]:
    waiting = deque(tasks)
    while waiting:
        pool = _pool(decoder, 1)
        try:
            pool.submit(os.getpid).result()
        except BrokenProcessPool:
            raise FeaturesError(
                "the processes that decode images end as soon as they start; "
                "is there memory left, and may this program start processes?"
            ) from None
        try:
            while waiting:
                answers = pool.submit(_work, (waiting[0],), folder).result()
                yield from _with_pixels(answers, folder)
                waiting.popleft()
        except BrokenProcessPool:
            file = waiting.popleft()[0]
            problem = "decoding it ended the process that did"
            yield Decoded(file=file, key=None, pixels=None, problem=problem)
        finally:
            pool.shutdown(cancel_futures=True)


def _pool(decoder: Decoder, workers: int) -> ProcessPoolExecutor:
    # Not fork: the parent runs torch's threads, and a fork copies their locks in any state.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(decoder,)
    )


class _Worker:
    """What the initializer leaves for the tasks of its process."""

    decoder: Decoder
    known: Keys


def _start_worker(decoder: Decoder) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # Pillow remarks on odd metadata; the report says what matters.
    warnings.simplefilter("ignore")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _Worker.decoder = decoder
    _Worker.known = np.load(decoder.known_keys, mmap_mode="r", allow_pickle=False)


def _end_with(sentinel: int) -> None:
    """End this process when its parent is gone, killed for instance."""
    wait([sentinel])
    os._exit(1)


def _work(tasks: Sequence[Task], folder: Path) -> Answers:
    """Decode files; in a worker. The pixels go by a file in `folder`.

    Through the pool's one pipe they would go in many pieces, and of a worker that is killed in
    between the pool would wait for the rest for ever.
    """
    found = [_Worker.decoder.decode(task, _Worker.known) for task in tasks]
    pixels = [decoded.pixels for decoded in found if decoded.pixels is not None]
    if pixels:
        save_table(_place(folder, found[0]), np.stack(pixels))
    return [(replace(decoded, pixels=None), decoded.pixels is not None) for decoded in found]


def _with_pixels(answers: Answers, folder: Path) -> Iterator[Decoded]:
    """Give each answer its pixels, and remove their file."""
    pixels: Iterator[npt.NDArray[np.uint8]] = iter(())
    if any(has_pixels for _, has_pixels in answers):
        place = _place(folder, answers[0][0])
        pixels = iter(np.load(place, allow_pickle=False))
        place.unlink()
    for decoded, has_pixels in answers:
        yield replace(decoded, pixels=next(pixels)) if has_pixels else decoded


def _place(folder: Path, first: Decoded) -> Path:
    return folder / f"{first.file}.npy"
