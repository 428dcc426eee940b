"""What every runner must do, as functions of a runner whose tables are not bound yet.

The unit tests call them for the runners that run here; gpu-check calls the same ones on a GPU.
"""

# B rows, L history length, K results, C table rows, D output width

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from support.tiny_bundle import Shop, Twin

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


def bias_of(twin: Twin, capacity: int, lines: int = 1) -> AnyArray:
    """Return `lines` eligibility sets [lines, C]: line s leaves out every item of n % lines < s."""
    bias_SC = np.full((lines, capacity), -np.inf, np.float32)
    for line in range(lines):
        rows = [n + 1 for n in range(len(twin.ids)) if n % lines >= line]
        bias_SC[line, rows] = 0.0
    return bias_SC


def bind(runner: Runner, shop: Shop) -> None:
    """Bind the tables, with every item eligible."""
    runner.bind("item_inputs", shop.twin.inputs_CW)
    runner.bind("item_outputs", shop.twin.outputs_CD)
    runner.bind("bias", bias_of(shop.twin, shop.sizes.capacity))


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
    outputs = runner.run(assemble(asked))
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
    kept = runner.run(assemble(first))
    before = {name: array.copy() for name, array in kept.items()}
    runner.run(assemble(second))
    assert all((kept[name] == before[name]).all() for name in before)


def written_rows_are_read_and_others_are_as_before(runner: Runner, shop: Shop) -> None:
    twin = shop.twin
    bind(runner, shop)
    asked = requests(shop, 3)
    runner.run(assemble(asked))
    random = np.random.default_rng(5)
    for rows in ([4], [9, 2, 300 % shop.sizes.items]):
        outputs_CD = twin.outputs_CD.copy()
        outputs_CD[rows] = random.normal(size=(len(rows), twin.width), scale=3.0)
        runner.write_rows("item_outputs", rows, outputs_CD[rows])
        found = runner.run(assemble(asked))
        for request, answer in zip(
            asked, split(asked, found["rows"], found["scores"]), strict=True
        ):
            assert answer.rows == [row for row, _ in expected(twin, request, outputs_CD)]
        runner.write_rows("item_outputs", rows, twin.outputs_CD[rows])
    check(runner, shop, asked)


def columns_are_rows_where_the_axis_says_so(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    request = RowRequest([1, 2, 3], [], 10)
    best = [row for row, _ in expected(shop.twin, request, shop.twin.outputs_CD)][:3]
    runner.write_rows("bias", best, np.full((1, 3), -np.inf, np.float32), axis=1)
    found = runner.run(assemble([request]))["rows"][0].tolist()
    wanted = expected(shop.twin, request, shop.twin.outputs_CD, frozenset(best))
    assert found == [row for row, _ in wanted]


def a_table_bound_anew_is_read(runner: Runner, shop: Shop) -> None:
    """Also with more lines than before, with fewer, and with as many as once before."""
    bind(runner, shop)
    request = RowRequest([1, 2, 3], [], 6)
    for lines in (1, 3, 8, 2, 1):
        runner.bind("bias", bias_of(shop.twin, shop.sizes.capacity, lines))
        inputs = assemble([request] * lines)
        found = runner.run({**inputs, "bias_row": np.arange(lines)})["rows"]
        for line in range(lines):
            barred = frozenset(n + 1 for n in range(shop.sizes.items) if n % lines < line)
            wanted = expected(shop.twin, request, shop.twin.outputs_CD, barred)
            assert found[line].tolist() == [row for row, _ in wanted]


def what_does_not_fit_is_refused(runner: Runner, shop: Shop) -> None:
    bind(runner, shop)
    with refused("float64"):
        runner.bind("bias", np.zeros((1, shop.sizes.capacity)))
    with refused("not 5000 to 5000"):
        runner.write_rows("item_outputs", [5000], np.zeros((1, shop.twin.width), np.float32))
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
    columns_are_rows_where_the_axis_says_so,
    a_table_bound_anew_is_read,
    what_does_not_fit_is_refused,
)
