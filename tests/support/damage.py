"""Damages files of a bundle that is a copy by hard links. Knows nothing of what they hold."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path, Path, random.Random], str]  # file, an undamaged file instead; says what


def linked(good: Path, target: Path) -> Path:
    """Copy a bundle by hard links."""
    shutil.copytree(good, target, copy_function=os.link)
    return target


def files_of(folder: Path) -> list[str]:
    """Return the names of a bundle's files, the manifest among them."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def replaced(path: Path, content: bytes) -> None:
    """Give the file other content; its other links keep theirs."""
    path.unlink()
    path.write_bytes(content)


def cut(path: Path, _: Path, choose: random.Random) -> str:
    """Truncate at a random place."""
    content = path.read_bytes()
    kept = choose.randrange(len(content))
    replaced(path, content[:kept])
    return f"cut to {kept} of {len(content)} bytes"


def flip(path: Path, _: Path, choose: random.Random) -> str:
    """Turn one bit."""
    content = bytearray(path.read_bytes())
    place, bit = choose.randrange(len(content)), choose.randrange(8)
    content[place] ^= 1 << bit
    replaced(path, bytes(content))
    return f"bit {bit} of byte {place} turned"


def scribble(path: Path, _: Path, choose: random.Random) -> str:
    """Overwrite some bytes with random ones."""
    content = bytearray(path.read_bytes())
    size = choose.randint(1, min(64, len(content)))
    place = choose.randrange(len(content) - size + 1)
    fresh = choose.randbytes(size)
    if content[place : place + size] == fresh:
        fresh = bytes(byte ^ 1 for byte in fresh)
    content[place : place + size] = fresh
    replaced(path, bytes(content))
    return f"{size} bytes from {place} on overwritten"


def blank(path: Path, _: Path, choose: random.Random) -> str:
    """Zero the end, as a file system may after a power cut."""
    content = path.read_bytes()
    full = max(n for n, byte in enumerate(content) if byte)  # zeros behind are zeros already
    begin = choose.randrange(full + 1)
    replaced(path, content[:begin] + bytes(len(content) - begin))
    return f"zeros from byte {begin} on"


def grow(path: Path, _: Path, choose: random.Random) -> str:
    """Append bytes."""
    size = choose.randint(1, 100)
    replaced(path, path.read_bytes() + choose.randbytes(size))
    return f"{size} bytes appended"


def remove(path: Path, _: Path, __: random.Random) -> str:
    """Remove the file."""
    path.unlink()
    return "removed"


def empty(path: Path, _: Path, __: random.Random) -> str:
    """Leave nothing in it."""
    replaced(path, b"")
    return "emptied"


def swap(path: Path, other: Path, _: random.Random) -> str:
    """Take another file in its place."""
    replaced(path, other.read_bytes())
    return f"swapped with {other.parent.name}/{other.name}"


def become_a_folder(path: Path, _: Path, __: random.Random) -> str:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()
    return "a folder now"


def become_a_loop(path: Path, _: Path, __: random.Random) -> str:
    """Put a symbolic link to itself in its place."""
    path.unlink()
    path.symlink_to(path)
    return "a link to itself now"


CONTENT: tuple[Damage, ...] = (cut, flip, scribble, blank, grow, swap)
DAMAGES: tuple[Damage, ...] = (*CONTENT, remove, empty, become_a_folder, become_a_loop)
