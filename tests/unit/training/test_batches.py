"""Splits, windows and batches: every position once, nothing held out leaks in."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmsr.training.batches import epoch_batches, pad_histories, training_windows
from mmsr.training.split import LeaveOneOut


def make_split(lengths: list[int]) -> LeaveOneOut:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.arange(1, offsets[-1] + 1, dtype=np.int32)  # every interaction its own item
    return LeaveOneOut(items_T=items, offsets=offsets)


lengths = st.lists(st.integers(0, 23), min_size=1, max_size=12)


@given(lengths, st.integers(1, 9))
def test_every_training_position_but_the_first_is_a_target_exactly_once(
    users: list[int], max_length: int
) -> None:
    split = make_split(users)
    windows = training_windows(split, max_length)
    seen: Counter[int] = Counter()
    for batch in epoch_batches(windows, 4, seed=1, epoch=0):
        assert batch.history_BL.shape[1] <= max_length
        real = batch.target_BL > 0
        assert np.array_equal(real, batch.history_BL > 0)
        # Each target is the item right after its input, of the same user.
        assert np.array_equal(batch.history_BL[real] + 1, batch.target_BL[real])
        seen.update(batch.target_BL[real].tolist())
    expected: Counter[int] = Counter()
    for user in range(split.users):
        start, end = int(split.offsets[user]), int(split.train_end()[user])
        expected.update(split.items_T[start + 1 : end].tolist())
    assert seen == expected


@given(lengths)
def test_held_out_items_are_never_trained_on(users: list[int]) -> None:
    split = make_split(users)
    held_out = {
        split.target(int(u), part) for u in split.evaluated() for part in ("validation", "test")
    }
    for batch in epoch_batches(training_windows(split, 5), 3, seed=0, epoch=0):
        assert not held_out & set(batch.history_BL.ravel().tolist())
        assert not held_out & set(batch.target_BL.ravel().tolist())
    counts = split.train_counts(len(split.items_T))
    assert not any(counts[row] for row in held_out)
    assert counts.sum() == len(split.items_T) - len(held_out)


def test_the_history_of_a_part_ends_right_before_its_target() -> None:
    split = make_split([5, 2, 3])
    assert split.evaluated().tolist() == [0, 2]
    assert split.history(0, "validation").tolist() == [1, 2, 3]
    assert split.target(0, "validation") == 4
    assert split.history(0, "test").tolist() == [1, 2, 3, 4]
    assert split.target(0, "test") == 5
    assert split.train_end().tolist() == [3, 7, 8]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    windows = training_windows(make_split([9] * 40), 4)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [b.history_BL[:, 0].tolist() for b in epoch_batches(windows, 8, seed, epoch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_histories_keep_their_newest_items_and_are_padded_on_the_right() -> None:
    rows, length = pad_histories([np.arange(1, 6, dtype=np.int32), np.array([7], np.int32)], 3)
    assert rows.tolist() == [[3, 4, 5], [7, 0, 0]]
    assert length.tolist() == [3, 1]
