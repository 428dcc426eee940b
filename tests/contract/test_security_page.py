"""SECURITY.md beside the code: settings, defaults, scopes, services and files that it names."""

import re
from pathlib import Path

from google.protobuf.descriptor_pool import Default
from support.tree import ROOT

from mmsr.bundle.preprocess import FORMATS, ImagePreprocess
from mmsr.bundle.repository import BUNDLE_ID, LABEL_PATTERN
from mmsr.engine.catalogue import worker
from mmsr.engine.config_table import page
from mmsr.engine.gatekeeper import SCOPE_OF_SERVICE, scope_of
from mmsr.engine.tokens import LOOK_EVERY_S, SCOPES, TOKEN_BYTES
from mmsr.training.prepare.blocks import MAX_LINE_BYTES
from mmsr.training.prepare.parquet_reader import MOST_TEXT_BYTES, MOST_TEXT_RATIO
from mmsr.v1 import admin_pb2, catalogue_pb2, recommender_pb2

TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = re.compile(r"`\[(\w+)\] (\w+)`((?:, `\w+`)*)")
LIMIT = re.compile(r"^\| `\[(\w+)\] (\w+)` \| (\S+) \|", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#)([^)#\s]+)")
PLACES = re.compile(r"`((?:tests|\.ci|engine)/[\w./-]+)`")


def defaults() -> dict[tuple[str, str], str]:
    """Return the default of every setting as engine/SETTINGS.md shows it."""
    found, table = {}, ""
    for line in page().splitlines():
        if heading := re.fullmatch(r"## \[(\w+)\]", line):
            table = heading[1]
        elif row := re.match(r"\| `(\w+)` \| [^|]+ \| ([^|]+) \|", line):
            found[table, row[1]] = row[2].strip()
    return found


def test_every_setting_that_is_named_is_there() -> None:
    known = defaults()
    named = [
        (table, key)
        for table, first, more in NAMED.findall(TEXT)
        for key in (first, *re.findall(r"`(\w+)`", more))
    ]
    assert len(named) > 20
    assert [setting for setting in named if setting not in known] == []


def test_every_limit_is_the_default() -> None:
    known = defaults()
    limits = {(table, key): value for table, key, value in LIMIT.findall(TEXT)}
    assert len(limits) > 15
    assert {key: known[key] for key in limits} == limits


def test_the_scopes_open_what_is_said() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.+) \|$", TEXT, re.MULTILINE))
    assert rows.keys() == set(SCOPES)
    for service, scope in SCOPE_OF_SERVICE.items():
        assert f"`{service}`" in rows[scope], service
    for name in re.findall(r"`([\w.]+)`", rows["admin"]):
        assert scope_of(f"{name}/Any") == "admin"
    services = [
        pb.DESCRIPTOR.services_by_name for pb in (recommender_pb2, catalogue_pb2, admin_pb2)
    ]
    for each in (service for found in services for service in found.values()):
        assert Default().FindServiceByName(each.full_name)
        assert f"`{each.full_name}`" in rows[scope_of(f"{each.full_name}/Any")]


def test_what_it_says_in_numbers_is_so() -> None:
    assert f"{TOKEN_BYTES} random bytes" in TEXT
    assert LOOK_EVERY_S == 1.0
    assert f"{ImagePreprocess().max_pixels:,} pixels" in TEXT
    said = TEXT.partition("other formats than ")[2].partition(" in training")[0]
    assert [n.upper() for n in re.findall(r"[A-Za-z]+", said) if n != "and"] == list(FORMATS)
    assert set(worker.FORMATS) == set(FORMATS[:4])
    assert f"more than {MAX_LINE_BYTES >> 20} MiB" in TEXT
    assert (MOST_TEXT_RATIO, MOST_TEXT_BYTES) == (1000, 1 << 30)
    assert BUNDLE_ID.pattern == "[0-9a-f]{16}"
    assert LABEL_PATTERN.pattern.startswith("[a-z][a-z0-9_-]")


def test_what_it_points_at_is_there() -> None:
    for target in (*LINK.findall(TEXT), *PLACES.findall(TEXT)):
        assert (ROOT / target).exists() or list(ROOT.glob(target)), target
    for name in re.findall(r"`(test_\w+\.py)`", TEXT):
        assert list((ROOT / "tests").rglob(name)), name
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        assert name in targets
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text()
    assert Path("SECURITY.md").name in (ROOT / "README.md").read_text().partition("```tree")[2]
