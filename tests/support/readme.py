"""Reads README.md: its commands, and its tree of files."""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^(?P<indent> *)(?P<name>\S+)(?: {2,}(?P<about>\S.*))?$")


@dataclass(frozen=True)
class Entry:
    """One line of the tree: a path from the root of the project, and what is said of it."""

    path: str  # a folder ends in "/"
    about: str


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of all fenced blocks of one language, in order."""
    return [body for found, body in FENCE.findall(text) if found == language]


def parse_tree(block: str) -> list[Entry]:
    """Read an indented tree: two spaces a level, the name, two spaces or more, what it is."""
    entries: list[Entry] = []
    parents: list[str] = []
    for line in block.splitlines():
        if not line.strip():
            continue
        match = ENTRY.match(line)
        assert match, f"not a line of a tree: {line!r}"
        depth, odd = divmod(len(match["indent"]), 2)
        assert not odd, f"indented by an odd number of spaces: {line!r}"
        assert depth <= len(parents), f"no folder above: {line!r}"
        path = "".join(parents[:depth]) + match["name"]
        entries.append(Entry(path, match["about"] or ""))
        if path.endswith("/"):
            parents = [*parents[:depth], match["name"]]
    return entries
