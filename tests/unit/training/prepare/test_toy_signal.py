"""Each modality tells something of the next item that popularity does not."""

# U users whose last item is rare, R rare items

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from mmsr.training.prepare.toy.behaviour import simulate
from mmsr.training.prepare.toy.factors import draw_factors
from mmsr.training.prepare.toy.settings import ToySettings

SETTINGS = ToySettings(items=400, users=1500, interactions=18_000, seed=0)
MARGIN = 0.15  # of the area under the ROC curve; measured for seed 0: 0.25, 0.26, 0.29


@dataclass(frozen=True, kw_only=True)
class LastPurchases:
    """Last purchases among the less popular half of the items, and scores of that half."""

    target_U: npt.NDArray[np.int64]
    popularity_UR: npt.NDArray[np.float64]
    wish_UR: dict[str, npt.NDArray[np.float64]]  # by factor: the true taste for its class


@pytest.fixture(scope="module")
def last() -> LastPurchases:
    factors = draw_factors(SETTINGS.items, SETTINGS.seed)
    bought_N = np.zeros(SETTINGS.items)
    targets = []
    wishes: dict[str, list[npt.NDArray[np.float32]]] = {"look": [], "subject": [], "leaf": []}
    for block in simulate(factors, SETTINGS):
        there_BL = block.item_BL >= 0
        end_B = there_BL.shape[1] - 1 - np.argmax(there_BL[:, ::-1], axis=1)
        target_B = block.item_BL[np.arange(len(end_B)), end_B]
        np.add.at(bought_N, block.item_BL[there_BL], 1)
        np.add.at(bought_N, target_B, -1)
        targets.append(target_B)
        wishes["look"].append(block.wish_look_BV)
        wishes["subject"].append(block.wish_subject_BS)
        wishes["leaf"].append(block.wish_leaf_BC)
    rare = np.flatnonzero(bought_N <= np.median(bought_N))
    place_N = np.full(SETTINGS.items, -1)
    place_N[rare] = np.arange(len(rare))
    target_U = place_N[np.concatenate(targets)]
    use = target_U >= 0
    class_N = {"look": factors.look_N, "subject": factors.subject_N, "leaf": factors.leaf_N}
    return LastPurchases(
        target_U=target_U[use],
        popularity_UR=np.broadcast_to(bought_N[rare], (use.sum(), len(rare))),
        wish_UR={
            name: np.concatenate(wishes[name])[use][:, class_N[name][rare]].astype(np.float64)
            for name in wishes
        },
    )


def area(score_UR: npt.NDArray[np.float64], target_U: npt.NDArray[np.int64]) -> float:
    """Return the chance that the target scores above another item; a tie counts half."""
    mine_U1 = np.take_along_axis(score_UR, target_U[:, None], axis=1)
    below = (score_UR < mine_U1).sum(1) + 0.5 * ((score_UR == mine_U1).sum(1) - 1)
    return float(below.mean() / (score_UR.shape[1] - 1))


@pytest.mark.parametrize("factor", ["look", "subject", "leaf"])
def test_a_factor_ranks_rare_items_better_than_popularity(last: LastPurchases, factor: str) -> None:
    assert len(last.target_U) > 300
    popularity = area(last.popularity_UR, last.target_U)
    assert area(last.wish_UR[factor], last.target_U) > popularity + MARGIN


def test_the_wish_of_another_user_says_nothing(last: LastPurchases) -> None:
    for wish_UR in last.wish_UR.values():
        assert abs(area(np.roll(wish_UR, 1, axis=0), last.target_U) - 0.5) < 0.05


def test_the_factors_add_to_one_another(last: LastPurchases) -> None:
    together = np.prod(list(last.wish_UR.values()), axis=0)
    best_alone = max(area(wish, last.target_U) for wish in last.wish_UR.values())
    assert area(together, last.target_U) > best_alone + 0.05


def test_the_factors_are_independent_of_one_another_and_of_popularity() -> None:
    factors = draw_factors(20_000, seed=0)
    one_hot = [np.eye(c.max() + 1)[c] for c in (factors.look_N, factors.subject_N, factors.leaf_N)]
    columns = np.hstack([*one_hot, np.log(factors.popularity_N)[:, None]])
    correlation = np.corrcoef(columns, rowvar=False)
    start = 0
    for width in (*(part.shape[1] for part in one_hot), 1):
        correlation[start : start + width, start : start + width] = 0
        start += width
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)  # five standard errors
    assert len(np.unique(factors.popularity_N)) == 20_000
