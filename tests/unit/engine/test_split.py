"""Which users a canary gets: a share, always the same ones."""

from dataclasses import replace
from pathlib import Path

import pytest

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
    serving.use("stable", None)  # type: ignore[arg-type]
    serving.use("canary", None)  # type: ignore[arg-type]
    assert serving.chosen("", "ann") == "canary"
    assert serving.chosen("", "") == "stable"
    assert serving.chosen("stable", "ann") == "stable"
    with pytest.raises(UnknownLabel, match="label 'other' is not served here"):
        serving.deployment("other", "ann")


def test_the_settings_of_a_canary() -> None:
    server = ServerConfig(repository=Path("r"), also=("next",))
    config = ServeConfig(server=server, canary=CanaryConfig(label="canary", percent=2.5, salt="s"))
    assert config.labels == ("stable", "next", "canary")
    assert config.canary.split == Split(label="canary", share=0.025, salt="s")
    assert ServeConfig(server=server).canary.split is None
    with pytest.raises(ConfigError, match=r"percent 101; expected 0 to 100"):
        CanaryConfig(percent=101)
    with pytest.raises(ConfigError, match="salt of 65 bytes; expected at most 64"):
        CanaryConfig(salt="x" * 65)
    with pytest.raises(ConfigError, match="canary 'stable' is the default label"):
        ServeConfig(server=server, canary=CanaryConfig(label="stable"))
