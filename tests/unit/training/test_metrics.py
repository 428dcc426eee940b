"""Ranks and metrics against brute force."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsr.training.metrics import masked_ranks, per_user_ndcg, ranks, seen_pairs, summarise

scores = st.lists(st.integers(-3, 3), min_size=3, max_size=15)


@given(scores, st.data())
def test_a_rank_is_the_place_in_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    target = data.draw(st.integers(1, len(values) - 1))
    excluded = data.draw(st.sets(st.integers(1, len(values) - 1)))
    scores_BN, target_B = torch.tensor([values]).float(), torch.tensor([target])
    history = np.array([*excluded, *excluded], dtype=np.int32)  # an item counts once
    seen = seen_pairs([history], len(values) - 1)
    found = int(masked_ranks(ranks(scores_BN, target_B), scores_BN, target_B, seen)[0])
    order = sorted(
        (row for row in range(1, len(values)) if row not in excluded),
        key=lambda row: (-values[row], row),
    )
    expected = len(values) if target in excluded else order.index(target) + 1
    assert found == expected


def test_a_score_that_is_no_number_is_a_miss() -> None:
    scores_BN = torch.full((2, 6), torch.nan)
    scores_BN[1, 2] = 1.0
    target_B = torch.tensor([3, 3])
    rank_B = ranks(scores_BN, target_B)
    assert rank_B.tolist() == [6, 6]
    seen = seen_pairs([np.array([2], dtype=np.int32)] * 2, 5)
    assert masked_ranks(rank_B, scores_BN, target_B, seen).tolist() == [6, 6]


def test_metrics_by_hand() -> None:
    metrics = summarise(np.array([1, 3, 11, 40]))
    assert metrics["recall@5"] == 0.5
    assert metrics["recall@20"] == 0.75
    assert math.isclose(metrics["ndcg@5"], (1 + 1 / 2) / 4)
    assert math.isclose(metrics["ndcg@20"], (1 + 1 / 2 + 1 / math.log2(12)) / 4)
    assert math.isclose(metrics["mrr@10"], (1 + 1 / 3) / 4)
    assert per_user_ndcg(np.array([1, 11]), 10).tolist() == [1.0, 0.0]
