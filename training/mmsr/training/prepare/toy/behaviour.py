"""Who buys what next: a softmax over the catalogue of taste, sequence and popularity.

utility(item) = taste(look) + taste(subject) + taste(leaf)            slowly drifting, per user
              + next(last look, look) + next(last subject, subject) + next(last leaf, leaf)
              + log popularity(item)

The softmax is drawn from exactly, factor after factor, from the popularity that each combination
of classes holds, so an interaction costs the same in a shop of a million items as in one of 400.
Nobody buys an item twice. Knows nothing of words, pictures or files.
"""

# B users of a block, L longest length, N items, V looks, S subjects, C leaves

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsr.training.prepare.toy.factors import (
    COLOURS,
    LEAVES,
    LEAVES_PER_TOP,
    LENGTH_STREAM,
    LOOKS,
    MATERIALS,
    MOODS,
    SHAPES,
    SUBJECTS,
    TEXTURES,
    TOPS,
    USER_STREAM,
    WORLD_STREAM,
    Factors,
    look_attributes,
    subject_attributes,
)
from mmsr.training.prepare.toy.settings import MIN_LENGTH, ToySettings

Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]

TASTE_SD = 2.0  # of the utility that a user's taste for one factor spreads over its classes
NEXT_GAIN = 1.2  # utility of the classes that go well with the last one
NEXT_CLASSES = 3  # how many do
DRIFT = 0.97  # autocorrelation of tastes from one drift to the next
DRIFT_EVERY = 4  # interactions
TRIES = 100  # to find an item that the user does not have yet
BLOCK_USERS = 4096
LENGTH_SHAPE = 1.5  # of the gamma law of lengths: many short histories, few long ones
START_S, OPEN_S = 1_640_995_200, 2 * 365 * 86_400  # first purchases: 2022 and 2023
MEAN_GAP_S = 2 * 86_400.0

SIZES = (LOOKS, SUBJECTS, LEAVES)


@dataclass(frozen=True, kw_only=True)
class Histories:
    """What the users of a block bought, and what they wished for when they last did."""

    first_user: int
    length_B: Longs
    item_BL: npt.NDArray[np.int32]  # -1 after the end
    time_BL: Longs  # seconds since 1970
    wish_look_BV: Floats  # exp(taste + sequence), by class of each factor
    wish_subject_BS: Floats
    wish_leaf_BC: Floats


class Market:
    """The catalogue as behaviour sees it: popularity by combination of classes."""

    def __init__(self, factors: Factors, seed: int) -> None:
        rng = np.random.default_rng([seed, WORLD_STREAM])
        self.factors = factors
        cluster_N = (factors.look_N * SUBJECTS + factors.subject_N) * LEAVES + factors.leaf_N
        self.item_of_place = np.argsort(cluster_N, kind="stable").astype(np.int32)
        popularity = factors.popularity_N[self.item_of_place]
        self.cumulative = np.concatenate([[0.0], np.cumsum(popularity)])
        bounds = np.searchsorted(
            cluster_N[self.item_of_place], np.arange(LOOKS * SUBJECTS * LEAVES + 1)
        )
        self.first_VSC, self.end_VSC = bounds[:-1], bounds[1:]
        mass = self.cumulative[self.end_VSC] - self.cumulative[self.first_VSC]
        self.mass_VSC = mass.reshape(SIZES).astype(np.float32)
        self.mass_C_VS = np.ascontiguousarray(self.mass_VSC.reshape(-1, LEAVES).T)
        self.attributes = (_look_taste(), _subject_taste(), _leaf_taste())
        self.next_gain = tuple(_next_gain(size, rng) for size in SIZES)

    def draw(
        self, wishes: tuple[Floats, Floats, Floats], rng: np.random.Generator
    ) -> npt.NDArray[np.int32]:
        """Return one item for each row of the three weights [B, V], [B, S] and [B, C]."""
        look_BV, subject_BS, leaf_BC = wishes
        rows = np.arange(len(look_BV))
        chance_BVS = (leaf_BC @ self.mass_C_VS).reshape(-1, LOOKS, SUBJECTS)
        chance_BVS *= subject_BS[:, None, :]
        look_B = _choose(look_BV * chance_BVS.sum(2), rng)
        subject_B = _choose(chance_BVS[rows, look_B], rng)
        leaf_B = _choose(self.mass_VSC[look_B, subject_B] * leaf_BC, rng)
        cluster_B = (look_B * SUBJECTS + subject_B) * LEAVES + leaf_B
        low_B = self.cumulative[self.first_VSC[cluster_B]]
        high_B = self.cumulative[self.end_VSC[cluster_B]]
        point_B = low_B + rng.random(len(rows)) * (high_B - low_B)
        place_B = np.searchsorted(self.cumulative, point_B, side="right") - 1
        last_B = np.maximum(self.end_VSC[cluster_B] - 1, self.first_VSC[cluster_B])
        place_B = np.clip(place_B, self.first_VSC[cluster_B], last_B)
        item_B: npt.NDArray[np.int32] = self.item_of_place[place_B]
        return item_B


def simulate(factors: Factors, settings: ToySettings) -> Iterator[Histories]:
    """Yield the histories of all users, block by block."""
    market = Market(factors, settings.seed)
    length_U = draw_lengths(settings)
    for first in range(0, settings.users, BLOCK_USERS):
        rng = np.random.default_rng([settings.seed, USER_STREAM, first])
        yield _simulate_block(market, length_U[first : first + BLOCK_USERS], first, rng)


def draw_lengths(settings: ToySettings) -> Longs:
    """Return how many items each user buys; at least 3, at most half of the catalogue."""
    rng = np.random.default_rng([settings.seed, LENGTH_STREAM])
    share_U = rng.gamma(LENGTH_SHAPE, size=settings.users)
    free = settings.interactions - MIN_LENGTH * settings.users
    length_U = MIN_LENGTH + rng.multinomial(free, share_U / share_U.sum())
    return np.minimum(length_U, max(1, settings.items // 2))


class _Shoppers:
    """Tastes of a block of users, longest history first."""

    def __init__(self, market: Market, users: int, rng: np.random.Generator) -> None:
        self.market = market
        self.rng = rng
        self.last_B = np.full(users, -1, dtype=np.int32)
        self.tastes = [
            rng.standard_normal((users, a.shape[1]), dtype=np.float32) for a in market.attributes
        ]
        self.weights = self._weights()

    def drift(self) -> None:
        """Let every taste move a little."""
        step = np.float32(np.sqrt(1 - DRIFT**2))
        for taste in self.tastes:
            taste *= np.float32(DRIFT)
            taste += step * self.rng.standard_normal(taste.shape, dtype=np.float32)
        self.weights = self._weights()

    def wishes(self, active: int) -> tuple[Floats, Floats, Floats]:
        """Return the weights by class of each factor for the first `active` users."""
        factors = self.market.factors
        last_B = self.last_B[:active]
        look, subject, leaf = (
            weight[:active] * np.where(last_B[:, None] < 0, np.float32(1), gain[of_item[last_B]])
            for weight, gain, of_item in zip(
                self.weights,
                self.market.next_gain,
                (factors.look_N, factors.subject_N, factors.leaf_N),
                strict=True,
            )
        )
        return look, subject, leaf

    def keep(self, users: int) -> None:
        """Forget all but the first `users`: the others have bought their last item."""
        self.last_B = self.last_B[:users]
        self.tastes = [taste[:users] for taste in self.tastes]
        self.weights = [weight[:users] for weight in self.weights]

    def _weights(self) -> list[Floats]:
        pairs = zip(self.tastes, self.market.attributes, strict=True)
        return [np.exp(taste @ attributes.T) for taste, attributes in pairs]


def _simulate_block(
    market: Market, length_B: Longs, first_user: int, rng: np.random.Generator
) -> Histories:
    order = np.argsort(-length_B, kind="stable")  # those who still buy are then a prefix
    sorted_B = length_B[order]
    users, longest = len(order), int(sorted_B[0])
    shoppers = _Shoppers(market, users, rng)
    item_BL = np.full((users, longest), -1, dtype=np.int32)
    wished = tuple(np.ones((users, size), dtype=np.float32) for size in SIZES)
    for step in range(longest):
        active = int(np.searchsorted(-sorted_B, -step))
        shoppers.keep(active)
        if step and step % DRIFT_EVERY == 0:
            shoppers.drift()
        wishes = shoppers.wishes(active)
        bought_B = _buy(market, wishes, item_BL[:active, :step], rng)
        item_BL[:active, step] = bought_B
        found = bought_B >= 0
        shoppers.last_B[found] = bought_B[found]
        for to, wish in zip(wished, wishes, strict=True):
            to[:active][found] = wish[found]
    time_BL = START_S + rng.integers(OPEN_S, size=(users, 1)) + _gaps(item_BL.shape, rng)
    back = np.argsort(order, kind="stable")
    look, subject, leaf = (wish[back] for wish in wished)
    return Histories(
        first_user=first_user,
        length_B=length_B,
        item_BL=item_BL[back],
        time_BL=time_BL[back],
        wish_look_BV=look,
        wish_subject_BS=subject,
        wish_leaf_BC=leaf,
    )


def _buy(
    market: Market,
    wishes: tuple[Floats, Floats, Floats],
    owned_BL: npt.NDArray[np.int32],
    rng: np.random.Generator,
) -> npt.NDArray[np.int32]:
    """Return an item that is not owned yet for each user; -1 where none was found."""
    item_B = market.draw(wishes, rng)
    for _ in range(TRIES):
        again = np.flatnonzero((owned_BL == item_B[:, None]).any(1))
        if not len(again):
            return item_B
        look, subject, leaf = (wish[again] for wish in wishes)
        item_B[again] = market.draw((look, subject, leaf), rng)
    item_B[(owned_BL == item_B[:, None]).any(1)] = -1
    return item_B


def _gaps(shape: tuple[int, ...], rng: np.random.Generator) -> Longs:
    """Return seconds since the first purchase [B, L]."""
    gaps_BL = 60 + rng.exponential(MEAN_GAP_S, size=shape).astype(np.int64)
    return np.cumsum(gaps_BL, axis=1)


def _choose(weights_BK: Floats, rng: np.random.Generator) -> Longs:
    """Return an index for each row, drawn in proportion to the weights."""
    cumulative_BK = np.cumsum(weights_BK, axis=1, dtype=np.float64)
    point_B = rng.random(len(weights_BK)) * cumulative_BK[:, -1]
    chosen_B: Longs = (cumulative_BK <= point_B[:, None]).sum(1)
    return chosen_B.clip(max=weights_BK.shape[1] - 1)


def _next_gain(classes: int, rng: np.random.Generator) -> Floats:
    """Return exp(utility) [classes, classes] of a class (column) after another (row)."""
    utility = np.zeros((classes, classes), dtype=np.float32)
    for row in utility:
        row[rng.choice(classes, NEXT_CLASSES, replace=False)] = NEXT_GAIN
    return np.exp(utility)


def _sum_of(columns: list[list[int]], sizes: tuple[int, ...]) -> Floats:
    """Return [classes, attributes]: a class has the sum of its attributes' tastes."""
    matrix = np.zeros((len(columns), sum(sizes)), dtype=np.float32)
    starts = np.cumsum([0, *sizes[:-1]])
    for row, attributes in zip(matrix, columns, strict=True):
        row[starts + attributes] = TASTE_SD / np.sqrt(len(sizes))
    return matrix


def _look_taste() -> Floats:
    return _sum_of([list(look_attributes(v)) for v in range(LOOKS)], (COLOURS, TEXTURES, SHAPES))


def _subject_taste() -> Floats:
    columns = [[s, *subject_attributes(s)] for s in range(SUBJECTS)]
    return _sum_of(columns, (SUBJECTS, MATERIALS, MOODS))


def _leaf_taste() -> Floats:
    return _sum_of([[c // LEAVES_PER_TOP, c] for c in range(LEAVES)], (TOPS, LEAVES))
