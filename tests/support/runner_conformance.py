"""What every runner must do, as functions of a runner whose tables are not bound yet.

The unit tests call them for the runners that run here; gpu-check calls the same ones on a GPU.
"""

# B rows, L history length, K results, C table rows, D output width

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from support.tiny_bundle import Shop, Twin

from mmsr.engine.items import bound_rows
from mmsr.engine.model import RowRequest, assemble, split
from mmsr.engine.runners.base import AnyArray, Runner

ATOL = 1e-4


@contextmanager
def refused(pattern: str) -> Iterator[None]:
    """Expect a `ValueError` whose text has the pattern; a GPU machine has no pytest."""
    try:
        yield
    except ValueError as error:
        said = str(error)
    else:
        said = "nothing"
    assert re.search(pattern, said), f"expected {pattern}, got {said}"


def bind(runner: Runner, shop: Shop) -> None:
    """Bind the tables in the order of the catalogue."""
    runner.bind("item_inputs", shop.twin.inputs_CW.copy())
    runner.bind("item_outputs", shop.twin.outputs_CD[: bound_rows(shop.sizes.items)].copy())


def inputs_of(shop: Shop, asked: list[RowRequest], bound: int | None = None) -> dict[str, AnyArray]:
    """Return the inputs of a batch; of the first `bound` lines those that are no item are out."""
    lines = bound_rows(shop.sizes.items) if bound is None else bound
    no_item = [0, *range(shop.sizes.items + 1, lines)]
    inputs = assemble([r._replace(excluded=[*r.excluded, *no_item]) for r in asked])
    return {**inputs, "k": np.minimum(inputs["k"], lines)}


def requests(shop: Shop, count: int, seed: int = 0) -> list[RowRequest]:
    """Return requests of every length, with exclusions and results of many sizes."""
    random = np.random.default_rng(seed)

    def rows(most: int) -> list[int]:
        found = random.integers(1, shop.sizes.items + 1, random.integers(1, most + 1))
        return [int(row) for row in found]

    return [
        RowRequest(rows(shop.sizes.max_length), rows(40), int(random.integers(1, 30)))
        for _ in range(count)
    ]


def expected(
    twin: Twin, request: RowRequest, outputs_CD: AnyArray, barred: frozenset[int] = frozenset()
) -> list[tuple[int, float]]:
    """Return the rows and scores that a request should get, best first."""
    scores_C = outputs_CD @ twin.state(request.history)
    out = set(request.excluded) | barred
    rows = [row for row in range(1, len(twin.ids) + 1) if row not in out]
    best = sorted(rows, key=lambda row: -scores_C[row])[: request.k]
    return [(row, float(scores_C[row])) for row in best]


def check(runner: Runner, shop: Shop, asked: list[RowRequest]) -> None:
    """Compare the answers to a batch with brute force."""
    outputs = runner.run(inputs_of(shop, asked))
    answers = split(asked, outputs["rows"], outputs["scores"])
    for request, answer in zip(asked, answers, strict=True):
        wanted = expected(shop.twin, request, shop.twin.outputs_CD)
        assert answer.rows == [row for row, _ in wanted]
        np.testing.assert_allclose(answer.scores, [score for _, score in wanted], atol=ATOL)


def answers_of_every_size_are_right(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    for count in (1, 2, 3, 5, 8, 13, 1):
        check(runner, shop, requests(shop, count, seed=count))


def repeated_calls_answer_what_they_are_asked(runner: Runner, shop: Shop) -> None:
    """Four of one shape: a runner that captures calls replays them from the second on."""
    bind(runner, shop)
    for seed in range(4):
        check(runner, shop, [r._replace(k=7) for r in requests(shop, 4, seed)])


def batches_beyond_the_largest_are_answered(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    for count in (100, 33):
        check(runner, shop, requests(shop, count, seed=count))


def long_lists_are_answered(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    items = shop.sizes.items
    many = list(range(1, items - 5)) * 2
    check(runner, shop, [RowRequest([1, 2], many, 3), RowRequest([7], [], items)])


def an_answer_outlives_the_next_call(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    first, second = ([r._replace(k=5) for r in requests(shop, 2, seed)] for seed in (1, 2))
    kept = runner.run(inputs_of(shop, first))
    before = {name: array.copy() for name, array in kept.items()}
    runner.run(inputs_of(shop, second))
    assert all((kept[name] == before[name]).all() for name in before)


def written_rows_are_read_and_others_are_as_before(runner: Runner, shop: Shop) -> None:
    twin = shop.twin
    bind(runner, shop)
    asked = requests(shop, 3)
    runner.run(inputs_of(shop, asked))
    random = np.random.default_rng(5)
    for rows in ([4], [9, 2, 300 % shop.sizes.items]):
        outputs_CD = twin.outputs_CD.copy()
        outputs_CD[rows] = random.normal(size=(len(rows), twin.width), scale=3.0)
        runner.write_rows("item_outputs", rows, outputs_CD[rows])
        found = runner.run(inputs_of(shop, asked))
        for request, answer in zip(
            asked, split(asked, found["rows"], found["scores"]), strict=True
        ):
            assert answer.rows == [row for row, _ in expected(twin, request, outputs_CD)]
        runner.write_rows("item_outputs", rows, twin.outputs_CD[rows])
    check(runner, shop, asked)


def more_or_fewer_rows_of_a_table_are_scored(runner: Runner, shop: Shop) -> None:
    """Also after rows were written that were not bound at the time."""
    table_CD = shop.twin.outputs_CD.copy()
    runner.bind("item_inputs", shop.twin.inputs_CW.copy())
    asked = [r._replace(excluded=[]) for r in requests(shop, 3)]
    for lines in (128, 64, 256, 64, bound_rows(shop.sizes.items), 128):
        runner.bind("item_outputs", table_CD[:lines])
        found = runner.run(inputs_of(shop, asked, lines))
        for request, answer in zip(
            asked, split(asked, found["rows"], found["scores"]), strict=True
        ):
            barred = frozenset(range(lines, shop.sizes.items + 1))
            wanted = expected(shop.twin, request, table_CD, barred)
            assert answer.rows == [row for row, _ in wanted]
        table_CD[[3, 200]] = table_CD[[200, 3]]
        runner.write_rows("item_outputs", [3, 200], table_CD[[3, 200]])


def states_are_those_of_the_rows_asked_for(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    asked = requests(shop, 3)
    states_BD = runner.run(inputs_of(shop, asked))["states"]
    wanted_BD = np.stack([shop.twin.state(request.history) for request in asked])
    np.testing.assert_allclose(states_BD, wanted_BD, atol=ATOL)


def what_does_not_fit_is_refused(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    with refused("float64"):
        runner.bind("item_outputs", np.zeros((64, shop.twin.width)))
    with refused("rows from 0 on, not -1"):
        runner.write_rows("item_outputs", [-1], np.zeros((1, shop.twin.width), np.float32))
    with refused(r"\[1, 3\], expected \[1, "):
        runner.write_rows("item_outputs", [5], np.zeros((1, 3), np.float32))
    with refused("no rows along axis 2"):
        runner.write_rows("item_outputs", [5], np.zeros((1, 3), np.float32), axis=2)
    check(runner, shop, requests(shop, 2))


CHECKS: tuple[Callable[[Runner, Shop], None], ...] = (
    answers_of_every_size_are_right,
    repeated_calls_answer_what_they_are_asked,
    batches_beyond_the_largest_are_answered,
    long_lists_are_answered,
    an_answer_outlives_the_next_call,
    written_rows_are_read_and_others_are_as_before,
    more_or_fewer_rows_of_a_table_are_scored,
    states_are_those_of_the_rows_asked_for,
    what_does_not_fit_is_refused,
)
