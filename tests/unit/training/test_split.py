"""Splits against their definition written out user by user."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.sequences import dataset_of

from mmsr.training.batches import epoch_batches, training_windows
from mmsr.training.config import ConfigError, SplitConfig, parse_recipe
from mmsr.training.dataset import DataError, Dataset
from mmsr.training.split import PARTS, Part, Split, leave_one_out, make_split

TEMPORAL = SplitConfig(kind="temporal", test_share=0.2, validation_share=0.2)


@dataclass(frozen=True)
class Expected:
    """One user by the definition: what is trained on, and per part history and target."""

    trained: list[int]
    parts: dict[Part, tuple[list[int], int]]


def log_of(dataset: Dataset, user: int) -> list[tuple[int, float]]:
    """Return a user's (item, time) pairs."""
    own = slice(int(dataset.offsets[user]), int(dataset.offsets[user + 1]))
    return list(zip(dataset.items_T[own].tolist(), dataset.times_T[own].tolist(), strict=True))


def cuts_of(dataset: Dataset, config: SplitConfig) -> tuple[float, float]:
    """Return the times of the two cuts: so much of all interactions is not later."""
    ordered = sorted(dataset.times_T.tolist())
    shares = (1 - config.test_share - config.validation_share, 1 - config.test_share)
    first, second = (ordered[math.floor((len(ordered) - 1) * share)] for share in shares)
    return first, second


def by_definition(dataset: Dataset, config: SplitConfig, cold: set[int], user: int) -> Expected:
    log = log_of(dataset, user)
    parts: dict[Part, tuple[list[int], int]] = {}
    if config.kind == "temporal":
        first, second = cuts_of(dataset, config)
        trained = [item for item, at in log if at <= first]
        later = [n for n, (_, at) in enumerate(log) if at > first]
        if later and log[later[0]][1] <= second:
            parts["validation"] = (trained, log[later[0]][0])
        latest = [n for n, (_, at) in enumerate(log) if at > second]
        if latest:
            parts["test"] = ([item for item, _ in log[: latest[0]]], log[latest[0]][0])
    else:
        items = [item for item, _ in log]
        trained = items if len(items) < 3 else items[:-2]
        if len(items) >= 3:
            parts = {"validation": (items[:-2], items[-2]), "test": (items[:-1], items[-1])}
    warm = {
        part: ([item for item in history if item not in cold], target)
        for part, (history, target) in parts.items()
    }
    return Expected(
        trained=[item for item in trained if item not in cold],
        parts={
            part: (history, target)
            for part, (history, target) in warm.items()
            if history and not (part == "validation" and target in cold)
        },
    )


@st.composite
def splits(draw: st.DrawFn) -> tuple[Dataset, SplitConfig, Split]:
    """Draw few items and few moments, so that repeats and ties are frequent."""
    one = st.tuples(st.integers(1, 9), st.integers(0, 12))
    users = draw(st.lists(st.lists(one, max_size=9), min_size=1, max_size=9))
    assume(any(users))
    times = [sorted(float(at) for _, at in user) for user in users]
    dataset = dataset_of([[item for item, _ in user] for user in users], times, catalogue=9)
    config = SplitConfig(
        kind=draw(st.sampled_from(["leave-one-out", "temporal"])),
        test_share=draw(st.sampled_from([0.1, 0.3])),
        validation_share=draw(st.sampled_from([0.1, 0.4])),
        cold_share=draw(st.sampled_from([0.0, 0.12, 0.3])),
        cold_seed=draw(st.integers(0, 3)),
    )
    try:
        return dataset, config, make_split(dataset, config)
    except DataError:
        assume(False)
        raise


@settings(max_examples=60)
@given(splits())
def test_every_user_is_split_as_defined(drawn: tuple[Dataset, SplitConfig, Split]) -> None:
    dataset, config, split = drawn
    cold = set(split.cold_rows.tolist())
    assert len(cold) == round(9 * config.cold_share)
    expected = [by_definition(dataset, config, cold, user) for user in range(split.users)]
    for user, one in enumerate(expected):
        trained = split.items_T[split.offsets[user] : split.train_end_U[user]]
        assert trained.tolist() == one.trained
    counts = np.bincount([row for one in expected for row in one.trained], minlength=10)
    assert split.train_counts(9).tolist() == counts.tolist()
    for part in PARTS:
        evaluated = [user for user, one in enumerate(expected) if part in one.parts]
        assert split.evaluated(part).tolist() == evaluated
        for user in evaluated:
            history, target = expected[user].parts[part]
            assert split.history(user, part).tolist() == history
            assert split.target(user, part) == target


@settings(max_examples=60)
@given(splits(), st.integers(1, 5))
def test_no_window_holds_what_is_held_out_or_cold_or_later_than_the_cut(
    drawn: tuple[Dataset, SplitConfig, Split], max_length: int
) -> None:
    """Every interaction is renamed to an item of its own, so that windows tell which they hold."""
    dataset, config, split = drawn
    forbidden = {0}
    names = np.arange(1, len(dataset.items_T) + 1, dtype=np.int32)
    warm = ~np.isin(dataset.items_T, split.cold_rows)
    for user in range(split.users):
        begin = int(dataset.offsets[user])
        held_out = {0, 1} if config.kind == "leave-one-out" else set()
        log = log_of(dataset, user)
        for place, (item, at) in enumerate(log):
            last_two = len(log) >= 3 and len(log) - 1 - place in held_out
            late = config.kind == "temporal" and at > cuts_of(dataset, config)[0]
            if last_two or late or item in split.cold_rows:
                forbidden.add(begin + place + 1)
    renamed = Split(
        items_T=names[warm],
        offsets=split.offsets,
        train_end_U=split.train_end_U,
        validation=split.validation,
        test=split.test,
    )
    windows = training_windows(renamed, max_length)
    assume(len(windows) > 0)
    for batch in epoch_batches(windows, 3, seed=0, epoch=0):
        real = batch.target_BL > 0
        read = {*batch.history_BL[real].tolist(), *batch.target_BL[real].tolist()}
        assert not read & forbidden


def test_the_history_of_a_part_ends_right_before_its_target() -> None:
    split = leave_one_out(dataset_of([[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]))
    assert split.evaluated("validation").tolist() == split.evaluated("test").tolist() == [0, 2]
    assert split.history(0, "validation").tolist() == [1, 2, 3]
    assert split.target(0, "validation") == 4
    assert split.history(0, "test").tolist() == [1, 2, 3, 4]
    assert split.target(0, "test") == 5
    assert split.target(1, "test") == 0
    assert split.train_end_U.tolist() == [3, 7, 8]


def test_temporal_by_hand() -> None:
    # Ten interactions; three are later than 6, of which the one at 7 lies before the second cut.
    times = [[1, 2, 7, 9], [3, 6, 9], [4, 5], [6]]
    split = make_split(dataset_of([[1, 2, 3, 4], [5, 6, 7], [8, 9], [10]], times), TEMPORAL)
    assert split.train_end_U.tolist() == [2, 6, 9, 10]  # what lies at the cut is trained on
    assert split.evaluated("validation").tolist() == [0]
    assert split.history(0, "validation").tolist() == [1, 2]
    assert split.target(0, "validation") == 3
    assert split.evaluated("test").tolist() == [0, 1]
    assert split.history(0, "test").tolist() == [1, 2, 3]
    assert [split.target(user, "test") for user in (0, 1)] == [4, 7]


def test_temporal_refuses_data_without_a_common_clock() -> None:
    with pytest.raises(DataError, match=r"needs one clock.*real timestamps.*leave-one-out"):
        make_split(dataset_of([[1, 2, 3], [4, 5]]), TEMPORAL)


def test_nobody_to_evaluate_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match="no user has 3 interactions or more"):
        leave_one_out(dataset_of([[1, 2], [3]]))
    with pytest.raises(DataError, match=r"both before the validation cut and after it.*larger"):
        make_split(dataset_of([[1, 2], [3, 4]], [[1, 1], [1, 1]]), TEMPORAL)


def test_cold_items_follow_from_their_seed_and_are_asked_for() -> None:
    random = np.random.default_rng(0)
    dataset = dataset_of([random.integers(1, 41, 6).tolist() for _ in range(60)], catalogue=40)
    one, same, other = (
        make_split(dataset, SplitConfig(cold_share=0.25, cold_seed=seed)) for seed in (1, 1, 2)
    )
    assert one.cold_rows.tolist() == same.cold_rows.tolist() != other.cold_rows.tolist()
    assert len(one.cold_rows) == 10
    assert set(one.cold_rows.tolist()) <= set(one.test.target_U.tolist())
    assert not set(one.cold_rows.tolist()) & set(one.validation.target_U.tolist())
    assert not one.train_counts(40)[one.cold_rows].any()


def test_more_cold_items_than_the_test_asks_for_are_refused() -> None:
    with pytest.raises(DataError, match=r"cold_share = 0.5 of 10 items is 5, but only 2 are"):
        make_split(dataset_of([[1, 2, 3], [4, 5, 6]], catalogue=10), SplitConfig(cold_share=0.5))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "random"}, r"kind = 'random'; expected one of: leave-one-out, temporal"),
        ({"test_share": 0}, "test_share = 0.0; expected above 0 and below 1"),
        ({"test_share": 0.6, "validation_share": 0.5}, "= 1.1; nothing is left to train on"),
        ({"cold_share": 1.0}, "cold_share = 1.0"),
        ({"cold_seed": -1}, "cold_seed must not be negative"),
        ({"share": 0.1}, "unknown key 'share'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(table: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe({"split": table}, "c.toml")
