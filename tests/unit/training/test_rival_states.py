"""Vectors of a rival are ranked as our own model's are."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.small_shop import ITEMS, write_shop

from benchmarks.rivals.environments import RivalError
from benchmarks.rivals.states import evaluate_states, rank_states
from mmsr.training.dataset import Dataset, open_dataset
from mmsr.training.evaluate import rank_held_out
from mmsr.training.metrics import summarise
from mmsr.training.split import leave_one_out

WIDTH = 6


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_shop(tmp_path_factory.mktemp("shop") / "data"))


def vectors(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_ranks_by_vectors_are_those_of_a_scorer(shop: Dataset) -> None:
    split, items_ND = leave_one_out(shop), vectors(ITEMS + 1, 0)
    users = split.evaluated("test")

    def state(histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
        return torch.stack([items_ND[h.astype(np.int64)].mean(0) for h in histories])

    wanted = rank_held_out(split, "test", lambda found: state(found) @ items_ND.T, ITEMS)
    state_ED = state([split.history(u, "test") for u in users.tolist()])
    known = torch.zeros(ITEMS + 1, dtype=torch.bool)
    found = rank_states(split, users, state_ED, items_ND, known)
    for mask, rank_E in wanted.items():
        assert found[mask].tolist() == rank_E.tolist()
    some = users[::-3]  # a rival that drops users, in an order of its own
    found = rank_states(split, some, state_ED.flip(0)[::3], items_ND, known)
    assert found["masked"].tolist() == wanted["masked"][::-3].tolist()


def test_an_item_without_a_vector_is_never_a_hit_and_pushes_nobody_down(shop: Dataset) -> None:
    split, items_ND = leave_one_out(shop), vectors(ITEMS + 1, 1)
    users = split.evaluated("test")
    state_ED = vectors(len(users), 2)
    asked = int(split.test.target_U[users[0]])
    items_ND[asked] = 100 * state_ED[1]  # would stand first for the second user
    unknown = torch.zeros(ITEMS + 1, dtype=torch.bool)
    with_it = rank_states(split, users, state_ED, items_ND, unknown)
    unknown[asked] = True
    without = rank_states(split, users, state_ED, items_ND, unknown)
    assert without["unmasked"][0] >= ITEMS
    assert int(split.test.target_U[users[1]]) != asked
    assert without["unmasked"][1] == with_it["unmasked"][1] - 1


def test_the_files_say_which_epoch_and_users_they_are_of(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(RivalError, match="written after the first epoch"):
        evaluate_states(shop, tmp_path)
    users = leave_one_out(shop).evaluated("test")
    known = np.ones(ITEMS + 1, dtype=bool)
    known[3] = False
    np.savez(
        tmp_path / "states.npz",
        users=users,
        epoch=7,
        states=vectors(len(users), 3).numpy(),
        items=vectors(ITEMS + 1, 4).numpy(),
        known=known,
    )
    found = evaluate_states(shop, tmp_path)
    assert (found["epoch"], found["users"], found["items_without_vector"]) == (7, len(users), 1)
    with np.load(tmp_path / "ranks.npz") as kept:
        assert found["masked"] == summarise(kept["masked"])
        assert kept["users"].tolist() == users.tolist()
