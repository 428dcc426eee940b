"""What a step reads: every process its part, all of them together the whole."""

import numpy as np
import pytest
import torch

from mmsr.training.batches import Batch
from mmsr.training.config import LossConfig
from mmsr.training.distributed import ALONE, Ranks
from mmsr.training.negatives import NegativeSampler
from mmsr.training.plan import Padding, Plan, Planner

ITEMS = 30


def batch(histories: int, length: int = 5, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    history = random.integers(1, ITEMS + 1, (histories, length))
    target = random.integers(1, ITEMS + 1, (histories, length))
    for row, end in enumerate(random.integers(1, length + 1, histories)):
        history[row, end:] = target[row, end:] = 0
    return Batch(history_BL=history, target_BL=target)


def planner(ranks: Ranks = ALONE, limit: int = 1000, padding: Padding | None = None) -> Planner:
    present = {m: np.arange(ITEMS + 1) % 4 != k for k, m in enumerate(("text", "category"))}
    for flags in present.values():
        flags[0] = False
    config = LossConfig(sampled_positions=limit)
    return Planner(config=config, ranks=ranks, present=present, padding=padding)


def plans(made: Batch, count: int, limit: int = 1000) -> list[Plan]:
    return [
        planner(Ranks(rank=rank, count=count), limit).plan(made, np.random.default_rng(7))
        for rank in range(count)
    ]


def aimed(plan: Plan, modality: str) -> list[int]:
    """Return the items that a loss looks at, found in both ways."""
    aim = plan.aims[modality]
    by_place = plan.target_M[aim.place_K].tolist()
    assert by_place == aim.candidate_C[aim.right_K].tolist()
    return sorted(by_place)


def test_a_plan_names_every_position_with_a_target() -> None:
    made = batch(6)
    plan = planner().plan(made, np.random.default_rng(0))
    assert torch.equal(plan.history_BL, torch.from_numpy(made.history_BL))
    flat = torch.from_numpy(made.target_BL).flatten()
    assert torch.equal(flat[plan.place_M], plan.target_M)
    assert plan.count == len(plan.target_M) == int((flat > 0).sum())


def test_positions_are_aimed_at_where_the_next_item_has_the_modality() -> None:
    made = batch(6)
    plan = planner().plan(made, np.random.default_rng(0))
    targets = made.target_BL[made.target_BL > 0]
    assert aimed(plan, "text") == sorted(targets[targets % 4 != 0].tolist())
    assert aimed(plan, "category") == sorted(targets[targets % 4 != 1].tolist())
    assert plan.aims["text"].count == len(plan.aims["text"].place_K)


@pytest.mark.parametrize(("histories", "count"), [(8, 2), (7, 2), (1, 2), (2, 3), (7, 4)])
@pytest.mark.parametrize("limit", [1000, 5])
def test_the_parts_of_all_processes_are_the_whole(histories: int, count: int, limit: int) -> None:
    made = batch(histories)
    (whole,) = plans(made, 1, limit)
    parts = plans(made, count, limit)
    targets = sorted(t for part in parts for t in part.target_M.tolist())
    assert targets == sorted(whole.target_M.tolist())
    for modality in ("text", "category"):
        together = sorted(item for part in parts for item in aimed(part, modality))
        assert together == aimed(whole, modality)
        for part in parts:
            assert torch.equal(part.aims[modality].candidate_C, whole.aims[modality].candidate_C)
            assert part.aims[modality].count * count == whole.aims[modality].count
    assert all(part.count * count == whole.count for part in parts)
    assert all(len(part.history_BL) >= 1 for part in parts)


def test_no_more_positions_are_sampled_than_asked_for_and_categories_are_never_sampled() -> None:
    (plan,) = plans(batch(8), 1, limit=5)
    assert len(plan.aims["text"].place_K) == 5
    assert len(plan.aims["category"].place_K) > 5
    others = planner(limit=5).plan(batch(8), np.random.default_rng(8))
    assert plan.aims["text"].place_K.tolist() != others.aims["text"].place_K.tolist()


def test_padding_adds_nothing_to_learn_from() -> None:
    made = batch(3)
    padding = Padding(histories=4, lengths=(2, 6, 9))
    padded = planner(padding=padding).plan(made, np.random.default_rng(0))
    plain = planner().plan(made, np.random.default_rng(0))
    assert padded.history_BL.shape == (4, 6)
    assert torch.equal(padded.target_M, plain.target_M)
    at = torch.from_numpy(np.pad(made.target_BL, ((0, 1), (0, 1)))).flatten()
    assert torch.equal(at[padded.place_M], plain.target_M)
    assert padded.count == plain.count


def test_a_sample_reads_each_row_once() -> None:
    torch.manual_seed(0)
    sampler = NegativeSampler(torch.ones(ITEMS + 1), 0.5)
    made = batch(4)
    config = LossConfig(softmax="sampled", negatives=6)
    sampled = Planner(config=config, ranks=ALONE, present={}, sampler=sampler)
    plan = sampled.plan(made, np.random.default_rng(0))
    sample = plan.sample
    assert sample is not None
    rows = sample.row_R
    assert rows[0] == 0
    assert len(rows) == len(rows.unique())
    assert torch.equal(rows[sample.history_BL], plan.history_BL)
    assert torch.equal(rows[sample.wanted_M], plan.target_M)
    assert torch.equal(rows[sample.negative_n], sample.negatives.rows_n)


def test_a_plan_stays_on_the_cpu_without_a_copy() -> None:
    plan = planner().plan(batch(3), np.random.default_rng(0))
    moved = plan.to(torch.device("cpu"))
    assert moved.history_BL.data_ptr() == plan.history_BL.data_ptr()
    assert moved.aims["text"].right_K.data_ptr() == plan.aims["text"].right_K.data_ptr()
