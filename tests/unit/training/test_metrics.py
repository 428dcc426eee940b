"""Ranks and metrics against brute force."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsr.training.evaluate import popularity_ranks
from mmsr.training.metrics import per_user_ndcg, ranks, summarise
from mmsr.training.split import LeaveOneOut

scores = st.lists(st.integers(-3, 3), min_size=3, max_size=15)


@given(scores, st.data())
def test_a_rank_is_the_place_in_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(1, len(values) - 1))
    excluded = data.draw(st.sets(st.integers(1, len(values) - 1)))
    mask = torch.zeros(1, len(values), dtype=torch.bool)
    mask[0, list(excluded)] = True
    found = int(ranks(torch.tensor([values]).float(), torch.tensor([target]), mask)[0])
    order = sorted(
        (row for row in range(1, len(values)) if row not in excluded),
        key=lambda row: (-values[row], row),
    )
    expected = len(values) if target in excluded else order.index(target) + 1
    assert found == expected


def test_a_score_that_is_no_number_is_a_miss() -> None:
    scores_BN = torch.full((2, 6), torch.nan)
    scores_BN[1, 2] = 1.0
    assert ranks(scores_BN, torch.tensor([3, 3])).tolist() == [6, 6]


def test_metrics_by_hand() -> None:
    metrics = summarise(np.array([1, 3, 11, 40]))
    assert metrics["recall@5"] == 0.5
    assert metrics["recall@20"] == 0.75
    assert math.isclose(metrics["ndcg@5"], (1 + 1 / 2) / 4)
    assert math.isclose(metrics["ndcg@20"], (1 + 1 / 2 + 1 / math.log2(12)) / 4)
    assert math.isclose(metrics["mrr@10"], (1 + 1 / 3) / 4)
    assert per_user_ndcg(np.array([1, 11]), 10).tolist() == [1.0, 0.0]


def test_popularity_ranks_by_training_counts_and_masks_the_history() -> None:
    # Training parts: user 0 has 1, 1, 2; user 1 has 1, 3. Held out: 2, 3 and 4, 1.
    items = np.array([1, 1, 2, 2, 3, 1, 3, 4, 1], dtype=np.int32)
    split = LeaveOneOut(items_T=items, offsets=np.array([0, 5, 9]))
    found = popularity_ranks(split, "test", 4)
    # Counts: item 1 three times, 2 and 3 once, 4 never; ties go to the lower row.
    assert found["unmasked"].tolist() == [3, 1]
    assert found["masked"].tolist() == [1, 5]  # user 1 has seen item 1: a miss
