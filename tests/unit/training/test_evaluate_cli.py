"""The command on a small shop: everything printed and kept, wrong options refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop
from typer.testing import CliRunner

from mmsr.bundle.errors import MmsrError
from mmsr.training.cli import app
from mmsr.training.config import load_recipe, parse_recipe, recipe_to_dict
from mmsr.training.evaluate_cli import MissingOptionError
from mmsr.training.fit import Hooks
from mmsr.training.run import open_run, start_run

QUIET = Hooks(step=lambda done, steps, loss: None, epoch=lambda line: None)
COLD = {"cold_share": 0.15}
TEMPORAL = {"kind": "temporal", "test_share": 0.2, "validation_share": 0.2}


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what trains one epoch on one shop."""
    folder = tmp_path_factory.mktemp("shop")
    data = write_features(write_shop(folder / "data"), "text", "image")
    offsets = np.load(data / "sequences/offsets.npy")
    steps = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    first = np.random.default_rng(0).uniform(0, 10, len(offsets) - 1)  # everybody at the same time
    np.save(data / "sequences/times.npy", steps + np.repeat(first, np.diff(offsets)))
    recipe = recipe_to_dict(load_recipe(shop_recipe(folder, epochs=1, patience=1)))

    def make(split: dict[str, object], sources: tuple[str, ...] = ("id", "text")) -> Path:
        changed = {"model": {**recipe["model"], "sources": sources}, "split": split}
        out = folder / f"{'-'.join(sources)}-{'-'.join(map(str, split.values()))}"
        if not out.exists():
            start_run(parse_recipe({**recipe, **changed}, "r"), data, out, False).run(out, QUIET)
        return out

    return make


def run_evaluate(*arguments: str | Path) -> str:
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)], env={"COLUMNS": "120"})
    if done.exception is not None:
        raise done.exception
    return done.output


def spread(value: dict[str, float]) -> str:
    return f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"


def test_all_of_it_is_printed_and_kept(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run, ids = make_run(COLD), make_run(COLD, ("id",))
    output = run_evaluate(
        run, "--cold", "--missing", "text=0.5,1", "--against", ids, "--json", tmp_path / "m.json"
    )
    found = json.loads((run / "evaluation.json").read_text())
    assert found == json.loads((tmp_path / "m.json").read_text())
    assert f"{found['metrics']['test.masked.ndcg@10']:.4f}" in output
    assert f"{found['metrics']['test.masked.coverage@10']:.1%} of the items" in output
    assert f"{found['cold']['items']} cold items, {found['cold']['users']} users" in output
    for who in ("model", "content-kNN", "popularity", "chance"):
        assert f"{found['cold']['metrics'][who]['cold']['ndcg@10']:.4f}" in output, who
    for name, above in found["cold"]["model_above"].items():
        assert f"model minus {name}, NDCG@10 [95 %]: {spread(above['masked'])}" in output
        assert f"{spread(above['cold'])} among the cold" in output
    for case in found["missing"]["cases"]:
        assert f"{case['validation']:.4f}" in output
        assert f"{case['test']:.4f}" in output
        assert spread(case["to_whole"]) in output
    assert f"{found['missing']['against']['test']:.4f}" in output
    shop = open_run(run)
    before = [shop.split.history(user, "test") for user in shop.split.evaluated()]
    targets = shop.split.test.target_U[shop.split.evaluated()]
    repeats = sum(target in history for target, history in zip(targets, before, strict=True))
    assert f"{repeats} of {found['users']} test targets are such items" in output


def test_a_temporal_run_is_tested_on_what_came_last(make_run: Callable[..., Path]) -> None:
    run = make_run(TEMPORAL)
    output = run_evaluate(run)
    found = json.loads((run / "evaluation.json").read_text())
    assert 10 < found["users"] != found["validation_users"] > 10
    assert f"{found['users']} users ({found['validation_users']} validation)" in output


@pytest.mark.parametrize("text", ["text", "text=", "text=half", "text=0", "text=0.5,1.5"])
def test_a_share_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(MissingOptionError, match=r"shares above 0 and up to 1"):
        run_evaluate(tmp_path, "--missing", text)


def test_against_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingOptionError, match="give that too"):
        run_evaluate(tmp_path, "--against", tmp_path)


def test_cold_needs_a_run_that_has_cold_items(make_run: Callable[..., Path]) -> None:
    with pytest.raises(MmsrError, match="none is cold"):
        run_evaluate(make_run(TEMPORAL), "--cold")
