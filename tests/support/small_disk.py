"""A file system of a few megabytes that can be full, read-only, and larger again."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

PAGE_BYTES = 4096  # tmpfs takes whole pages


@dataclass(frozen=True)
class SmallDisk:
    """A mounted tmpfs."""

    folder: Path

    def resize(self, size_bytes: int) -> None:
        """Make it larger, or smaller if nothing lies there."""
        self._remount(f"size={max(PAGE_BYTES, size_bytes)}")

    def used(self) -> int:
        """Return the bytes that are taken."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def read_only(self, on: bool) -> None:
        """Let nobody write, or everybody again."""
        self._remount("ro" if on else "rw")

    def _remount(self, option: str) -> None:
        command = ["mount", "-o", f"remount,{option}", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """Mount one at `folder`, which is made; what lay there is hidden meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={max(PAGE_BYTES, size_bytes)}"
    command = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@cache
def may_mount() -> bool:
    """Tell whether this process may mount: in most containers root may, nobody else."""
    try:
        with TemporaryDirectory() as folder, small_disk(Path(folder), PAGE_BYTES):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
