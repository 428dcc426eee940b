"""Windows and batches: every position once. What they must not hold: test_split.py."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.sequences import dataset_of

from mmsr.training.batches import epoch_batches, pad_histories, training_windows
from mmsr.training.config import SplitConfig
from mmsr.training.split import Split, make_split


def split_of(lengths: list[int]) -> Split:
    """Split users of these lengths and one that can be evaluated; every interaction is an item."""
    ends = np.cumsum([*lengths, 3])
    return make_split(
        dataset_of(
            [list(range(end - n + 1, end + 1)) for n, end in zip([*lengths, 3], ends, strict=True)]
        ),
        SplitConfig(),
    )


lengths = st.lists(st.integers(0, 23), min_size=1, max_size=12)


@given(lengths, st.integers(1, 9))
def test_every_training_position_but_the_first_is_a_target_exactly_once(
    users: list[int], max_length: int
) -> None:
    split = split_of(users)
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
        start, end = int(split.offsets[user]), int(split.train_end_U[user])
        expected.update(split.items_T[start + 1 : end].tolist())
    assert seen == expected


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    windows = training_windows(split_of([9] * 40), 4)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [b.history_BL[:, 0].tolist() for b in epoch_batches(windows, 8, seed, epoch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_histories_keep_their_newest_items_and_are_padded_on_the_right() -> None:
    rows, length = pad_histories([np.arange(1, 6, dtype=np.int32), np.array([7], np.int32)], 3)
    assert rows.tolist() == [[3, 4, 5], [7, 0, 0]]
    assert length.tolist() == [3, 1]
