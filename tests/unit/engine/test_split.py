"""Which users a canary gets: a share, always the same ones."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.loads import deployment

from mmsr.engine.config import ServeConfig, ServerConfig
from mmsr.engine.errors import ConfigError, UnknownLabel
from mmsr.engine.serving import Serving
from mmsr.engine.split import CanaryConfig, Split

USERS = [f"user-{number}" for number in range(20_000)]
TENTH = Split(label="canary", share=0.1)
WRITTEN_DOWN = ["user-8", "user-10", "user-15", "user-16"]  # of the first 40


def taken(split: Split) -> set[str]:
    return {user for user in USERS if split.takes(user)}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_as_many_users_are_taken_as_the_share_says(share: float) -> None:
    found = len(taken(replace(TENTH, share=share))) / len(USERS)
    deviation = (share * (1 - share) / len(USERS)) ** 0.5
    assert abs(found - share) <= 4 * deviation


def test_a_larger_share_keeps_the_users_that_it_had() -> None:
    assert taken(TENTH) < taken(replace(TENTH, share=0.2))


def test_another_salt_takes_others_and_the_same_one_the_same() -> None:
    other = taken(replace(TENTH, salt="spring"))
    assert other == taken(replace(TENTH, salt="spring"))
    assert 0.05 < len(other & taken(TENTH)) / len(other) < 0.15  # a tenth, by chance


def test_a_user_is_taken_by_the_key_alone_on_every_replica_and_release() -> None:
    """Were the hash another one, every user of every canary would change sides."""
    assert [user for user in USERS[:40] if TENTH.takes(user)] == WRITTEN_DOWN


def test_whoever_is_not_named_is_not_split() -> None:
    assert not Split(label="canary", share=1.0).takes("")


def test_a_label_of_its_own_goes_before_the_split_and_a_split_without_bundle_takes_nobody() -> None:
    everybody = Split(label="canary", share=1.0)
    serving = Serving("stable", everybody)
    assert serving.chosen("", "ann") == "stable"  # nothing is loaded for canary yet
    assert serving.chosen("other", "ann") == "other"
    assert Serving("stable").chosen("", "ann") == "stable"
    serving.use("stable", deployment("a"))
    serving.use("canary", deployment("b"))
    assert serving.chosen("", "ann") == "canary"
    assert serving.chosen("", "") == "stable"
    assert serving.chosen("stable", "ann") == "stable"
    with pytest.raises(UnknownLabel, match="label 'other' is not served here"):
        serving.deployment("other", "ann")


def test_only_a_bundle_of_its_own_that_was_not_withdrawn_is_tried() -> None:
    serving = Serving("stable", Split(label="canary", share=1.0))
    told: list[str | None] = []
    serving.listeners.append(
        lambda: told.append(serving.candidate.model.version if serving.candidate else None)
    )
    a, b, c = map(deployment, "abc")
    serving.use("stable", a)
    serving.use("canary", a)
    assert serving.chosen("", "ann") == "stable"  # nothing to be tried: it is the same bundle
    serving.use("canary", b)
    assert serving.chosen("", "ann") == "canary"
    serving.withdraw("b")
    assert serving.chosen("", "ann") == "stable"
    assert serving.deployment("canary") is b  # who asks for the label gets it all the same
    serving.withdraw("a")
    serving.use("canary", a)
    serving.use("stable", c)
    assert serving.chosen("", "ann") == "stable"  # what a canary was rolled back to is none
    serving.allow("stable", "a")
    assert serving.chosen("", "ann") == "stable"  # that was about another label
    serving.allow("canary", "a")
    assert serving.chosen("", "ann") == "canary"
    serving.use("canary", b)
    assert serving.chosen("", "ann") == "stable"
    assert told == [None, None, "b", None, None, None, None, "a", None]


def test_the_settings_of_a_canary() -> None:
    server = ServerConfig(repository=Path("r"), also=("next",))
    config = ServeConfig(server=server, canary=CanaryConfig(label="canary", percent=2.5, salt="s"))
    assert config.labels == ("stable", "next", "canary")
    assert config.canary.split == Split(label="canary", share=0.025, salt="s")
    assert ServeConfig(server=server).canary.split is None
    for wrong, message in (
        ({"percent": 101}, "percent 101; expected 0 to 100"),
        ({"shadow_percent": -1}, "shadow_percent -1; expected 0 to 100"),
        ({"max_error_percent": 200}, "max_error_percent 200; expected 0 to 100"),
        ({"min_overlap": 5}, "min_overlap 5; expected 0 to 1"),
        ({"min_overlap": 0.5}, "min_overlap needs shadow_percent above 0"),
        ({"shadow_share": 0}, "shadow_share 0; expected 0.01 to 1"),
        ({"shadow_in_flight": 0}, "shadow_in_flight 0; expected at least 1"),
        ({"max_p99_ms": -1}, "max_p99_ms -1; expected at least 0"),
        ({"window_s": 0}, "window_s 0; expected at least 1"),
        ({"least_requests": 0}, "least_requests 0; expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            CanaryConfig(**wrong)
    with pytest.raises(ConfigError, match="salt of 65 bytes; expected at most 64"):
        CanaryConfig(salt="x" * 65)
    with pytest.raises(ConfigError, match="canary 'stable' is the default label"):
        ServeConfig(server=server, canary=CanaryConfig(label="stable"))
