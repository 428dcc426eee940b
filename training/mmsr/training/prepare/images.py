"""Which image paths lead to a usable picture: below the root, there, readable, not too large."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from mmsr.bundle.preprocess import ImageError, ImagePreprocess, open_image

HEADER_BYTES = 65_536  # enough for the header of most pictures; the rest is read if it is not
MAX_FILE_BYTES = 64 << 20  # a JPEG of 50 M pixels, the most that is decoded, takes about 30 MB
OUTSIDE = "image path leaves the image root"
MISSING = "image file not found"
UNREADABLE = "image file unreadable"
TOO_LARGE = "image has too many pixels"
TASK_PATHS = 64
READERS = 8  # threads: they mostly wait for the disk


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A path below the image root, or the reason why there is none."""

    path: str | None = None
    problem: str | None = None
    detail: str = ""


class ImageChecker:
    """Looks at image files below `root`, several at a time."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self.root = root
        self.pool = pool
        self.max_pixels = ImagePreprocess().max_pixels

    def check(self, paths: list[str | None]) -> list[Picture]:
        """Return one picture a path; None has neither a path nor a problem."""
        pictures = [Picture()] * len(paths)
        named = [(i, path) for i, path in enumerate(paths) if path is not None]
        tasks = [named[i : i + TASK_PATHS] for i in range(0, len(named), TASK_PATHS)]
        for task, found in zip(tasks, self.pool.map(self._check_all, tasks), strict=True):
            for (i, _), picture in zip(task, found, strict=True):
                pictures[i] = picture
        return pictures

    def _check_all(self, task: list[tuple[int, str]]) -> list[Picture]:
        return [self._check(path) for _, path in task]

    def _check(self, text: str) -> Picture:
        relative = below(self.root, text)
        if relative is None:
            return Picture(problem=OUTSIDE, detail=text)
        problem, detail = self._look(self.root / relative)
        if problem is not None:
            return Picture(problem=problem, detail=f"{text}: {detail}" if detail else text)
        return Picture(path=relative)

    def _look(self, path: Path) -> tuple[str | None, str]:
        try:
            if not path.is_file():  # also false for a pipe, which would wait for ever
                return MISSING, ""
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                return UNREADABLE, f"{size} bytes, at most {MAX_FILE_BYTES}"
            with path.open("rb") as file:
                return self._read_header(file, size)
        except OSError as error:
            return UNREADABLE, error.strerror or ""

    def _read_header(self, file: BinaryIO, size: int) -> tuple[str | None, str]:
        problem, detail = self._open(file.read(HEADER_BYTES))
        if problem == UNREADABLE and size > HEADER_BYTES:  # metadata may stand before the header
            file.seek(0)
            return self._open(file.read())
        return problem, detail

    def _open(self, data: bytes) -> tuple[str | None, str]:
        try:
            open_image(data, self.max_pixels)
        except ImageError as error:
            return (TOO_LARGE if "pixels" in str(error) else UNREADABLE), str(error)
        return None, ""


@contextmanager
def image_checker(root: Path) -> Iterator[ImageChecker]:
    """Yield a checker of files below `root`."""
    with ThreadPoolExecutor(READERS) as pool:
        yield ImageChecker(root, pool)


def below(root: Path, text: str) -> str | None:
    """Return the path relative to `root`; None if it leads elsewhere.

    The text decides, not the disk: a link that stands below the root is the shop's own doing.
    """
    if "\0" in text or ".." in PurePath(text).parts:
        return None
    path = os.path.normpath(root / text)
    inside = Path(path).is_relative_to(root) and Path(path) != root
    return Path(path).relative_to(root).as_posix() if inside else None
