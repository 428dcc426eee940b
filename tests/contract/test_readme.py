"""README.md beside the disk: its tree is true and complete, its links lead somewhere.

The tree stands in a block fenced as ```tree: two spaces a level, a name (a folder ends in "/"),
two spaces or more, what it is. Every name must be there; a folder whose content is listed must
list all of it, but for what starts with "." or "_", py.typed and generated code.
Its commands are run by tests/integration/test_readme.py.
"""

import re
from pathlib import Path

import pytest
from support.readme import Entry, blocks, parse_tree
from support.tree import ROOT

LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
FIRST_COMMAND_BY_LINE = 40
UNLISTED = re.compile(r"^[._]|^py\.typed$|_pb2|\.egg-info$")
# Made by running things; git ignores them.
IGNORED = {"demo", "runs", "data", "build", "dist"}


def readme() -> str:
    return (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def tree() -> list[Entry]:
    found = blocks(readme(), "tree")
    assert len(found) == 1, "README.md needs exactly one block fenced as ```tree"
    return parse_tree(found[0])


def test_everything_in_the_tree_is_there(tree: list[Entry]) -> None:
    assert len(tree) > 10
    for entry in tree:
        path = ROOT / entry.path
        assert path.is_dir() if entry.path.endswith("/") else path.is_file(), entry.path


def test_everything_in_the_tree_is_explained(tree: list[Entry]) -> None:
    folders_with_content = {str(Path(entry.path).parent) + "/" for entry in tree}
    for entry in tree:
        assert entry.about or entry.path in folders_with_content, entry.path


def test_everything_there_is_in_the_tree(tree: list[Entry]) -> None:
    listed = {entry.path.rstrip("/") for entry in tree}
    opened = {str(Path(path).parent) for path in listed}
    for folder in sorted(opened):
        names = {path.name for path in (ROOT / folder).iterdir()}
        if folder == ".":
            names -= IGNORED
        expected = {str(Path(folder) / name) for name in names if not UNLISTED.search(name)}
        assert expected <= listed, f"{folder}: not in README's tree: {sorted(expected - listed)}"


def test_links_lead_to_files() -> None:
    for target in LINK.findall(readme()):
        assert (ROOT / target).exists(), target


def test_a_newcomer_meets_a_command_early() -> None:
    lines = readme().splitlines()
    numbers = [number for number, line in enumerate(lines, 1) if line == "```bash"]
    assert numbers
    assert numbers[0] <= FIRST_COMMAND_BY_LINE


def test_the_tree_is_read_as_it_is_meant() -> None:
    text = "a/  first\n  b.py  second  still second\n  c/\n    d  third\ne  last\n"
    assert parse_tree(text) == [
        Entry("a/", "first"),
        Entry("a/b.py", "second  still second"),
        Entry("a/c/", ""),
        Entry("a/c/d", "third"),
        Entry("e", "last"),
    ]
