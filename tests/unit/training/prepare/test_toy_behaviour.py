import numpy as np

from mmsr.training.prepare.toy.behaviour import BLOCK_USERS, SIZES, Market, simulate
from mmsr.training.prepare.toy.factors import (
    COLOURS,
    LEAVES,
    LOOKS,
    SUBJECTS,
    TEXTURES,
    draw_factors,
    look_attributes,
)
from mmsr.training.prepare.toy.settings import ToySettings


def test_items_are_drawn_from_the_softmax_over_the_whole_catalogue() -> None:
    factors = draw_factors(30, seed=1)
    market = Market(factors, seed=1)
    rng = np.random.default_rng(0)
    look, subject, leaf = (np.exp(rng.normal(0, 1, (1, n))).astype(np.float32) for n in SIZES)
    weight_N = factors.popularity_N * look[0, factors.look_N]
    weight_N *= subject[0, factors.subject_N] * leaf[0, factors.leaf_N]
    draws = 15_000
    wishes = tuple(np.repeat(w, draws, axis=0) for w in (look, subject, leaf))
    item_B = market.draw((wishes[0], wishes[1], wishes[2]), rng)
    expected_N = draws * weight_N / weight_N.sum()
    found_N = np.bincount(item_B, minlength=30)
    # chi-square with 29 degrees of freedom: mean 29, standard deviation 7.6
    assert ((found_N - expected_N) ** 2 / expected_N).sum() < 70


def test_two_items_of_one_combination_share_by_popularity() -> None:
    factors = draw_factors(6, seed=0)
    for array in (factors.look_N, factors.subject_N, factors.leaf_N):
        array[:] = 4
    market = Market(factors, seed=0)
    wishes = tuple(np.ones((20_000, n), dtype=np.float32) for n in SIZES)
    item_B = market.draw((wishes[0], wishes[1], wishes[2]), np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(item_B) / 20_000, factors.popularity_N, atol=0.015)


def test_users_of_a_later_block_and_of_an_earlier_one_are_alike() -> None:
    users = BLOCK_USERS + 500
    settings = ToySettings(items=300, users=users, interactions=6 * users)
    blocks = list(simulate(draw_factors(300, 0), settings))
    assert [block.first_user for block in blocks] == [0, BLOCK_USERS]
    assert sum(len(block.length_B) for block in blocks) == users
    for block in blocks:
        there_BL = block.item_BL >= 0
        assert np.all(there_BL.sum(1) <= block.length_B)
        assert there_BL.sum() > 0.99 * block.length_B.sum()
        assert np.all(np.diff(block.time_BL, axis=1) > 0)
    first, second = (block.item_BL[:400, :3] for block in blocks)
    assert (first != second).mean() > 0.9


def test_a_user_who_has_found_everything_buys_less() -> None:
    settings = ToySettings(items=6, users=40, interactions=120)
    [block] = simulate(draw_factors(6, 0), settings)
    for items in block.item_BL:
        bought = items[items >= 0]
        assert len(bought) == len(set(bought.tolist())) <= 3


def test_looks_differ_and_share_every_attribute() -> None:
    attributes = [look_attributes(look) for look in range(LOOKS)]
    assert len({(colour, texture) for colour, texture, _ in attributes}) == LOOKS
    assert {colour for colour, _, _ in attributes} == set(range(COLOURS))
    assert {texture for _, texture, _ in attributes} == set(range(TEXTURES))
    assert SIZES[1:] == (SUBJECTS, LEAVES)
