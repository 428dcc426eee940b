"""A comparison that a published bundle has passed is not computed twice."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from support.tiny_bundle import publish

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.export.encoder_memory import known_checks, remembered
from mmsr.export.encoders import EncoderCheck

PASSED = EncoderCheck(of="abc", items=16, min_cosine=0.99999)


def never() -> EncoderCheck:
    raise AssertionError("it was measured again")


def record(repository: Repository, checks: dict[str, Any]) -> str:
    [bundle_id] = repository.ids()
    folder = repository.path(bundle_id)
    manifest = load_manifest(folder)
    replace(manifest, provenance={"encoder_checks": checks}).save(folder)
    return bundle_id


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(publish(tmp_path / "repository").root)


def test_what_is_known_is_not_measured() -> None:
    assert remembered("abc", {"abc": PASSED}, never) == PASSED
    measured = remembered("abd", {"abc": PASSED}, lambda: replace(PASSED, of="", items=3))
    assert (measured.of, measured.items, measured.measured_in) == ("abd", 3, None)


def test_bundles_say_what_they_have_measured(repository: Repository) -> None:
    assert known_checks(repository) == {}
    bundle_id = record(repository, {"image_encoder": asdict(PASSED)})
    assert known_checks(repository) == {"abc": replace(PASSED, measured_in=bundle_id)}


def test_the_bundle_that_has_really_measured_is_named(repository: Repository) -> None:
    second_hand = replace(PASSED, measured_in="0123456789abcdef")
    record(repository, {"image_encoder": asdict(second_hand)})
    assert known_checks(repository) == {"abc": second_hand}


def test_records_of_another_form_are_passed_over(repository: Repository) -> None:
    record(repository, {"image_encoder": {"of": "abc", "likeness": 1.0}})
    assert known_checks(repository) == {}
