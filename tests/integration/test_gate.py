"""The gate on a real item.onnx: what was changed since the export is found, and named."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.exported import stage
from support.random_run import random_run
from support.small_features import write_features
from support.small_shop import write_shop

from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.convert import convert_item
from mmsr.export.gate import measure
from mmsr.export.parity import ITEM_TOLERANCE, Difference, id_table, item_parity, made_up_parity
from mmsr.training.config import SplitConfig, parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

Exported = tuple[TrainedRun, Path, GraphSpec]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    run = random_run(SplitConfig())
    path = tmp_path_factory.mktemp("gate") / "item.onnx"
    return run, path, convert_item(run.model, path, folded=True)


@contextmanager
def changed(
    run: TrainedRun,
    ending: str,
    *,
    row: int | None = None,
    column: int | None = None,
    by: float = 1.0,
) -> Iterator[None]:
    """Change the one parameter of the model whose name ends so, or a part of it, for a while."""
    [parameter] = [p for name, p in run.model.named_parameters() if name.endswith(ending)]
    before = parameter.detach().clone()
    with torch.no_grad():
        if row is not None:
            parameter[row] += by
        elif column is not None:
            parameter[:, column] += by
        else:
            parameter.add_(by)
    yield
    with torch.no_grad():
        parameter.copy_(before)


@contextmanager
def opened(exported: Exported) -> Iterator[Runner]:
    run, path, spec = exported
    runner = open_onnx(path, spec, threads=1)
    runner.bind("id_table", id_table(run))
    yield runner
    runner.close()


def worst(found: dict[str, Difference]) -> float:
    return float(np.max([one.max_error for one in found.values()]))


def test_an_item_graph_that_agrees_has_small_errors(exported: Exported) -> None:
    with opened(exported) as runner:
        assert 0 < worst(item_parity(exported[0], runner, folded=True)) <= ITEM_TOLERANCE
        assert 0 < worst(made_up_parity(exported[0], runner, folded=True)) <= ITEM_TOLERANCE


def test_a_weight_that_no_item_of_the_catalogue_needs_is_found(exported: Exported) -> None:
    run = exported[0]
    unused = run.content.features["text"].clone()
    unused[:, 3] = 0.0  # as a feature that no item of today has
    content = replace(run.content, features={"text": unused})
    with opened(exported) as runner, changed(run, "text.project.weight", column=3):
        today = item_parity(replace(run, content=content), runner, folded=True)
        new = made_up_parity(run, runner, folded=True)
    assert worst(today) <= ITEM_TOLERANCE
    assert worst(new) > ITEM_TOLERANCE


def test_another_vector_for_missing_texts_is_found(exported: Exported) -> None:
    run = exported[0]
    everywhere = {"text": torch.ones_like(run.content.present["text"])}
    content = replace(run.content, present=everywhere)
    with opened(exported) as runner, changed(run, "text.missing_S"):
        assert (
            worst(item_parity(replace(run, content=content), runner, folded=True)) <= ITEM_TOLERANCE
        )
        assert worst(made_up_parity(run, runner, folded=True)) > ITEM_TOLERANCE


def test_an_id_that_is_no_number_is_found(exported: Exported) -> None:
    run = exported[0]
    with opened(exported) as runner, changed(run, "ids.weight", row=7, by=float("nan")):
        found = item_parity(run, runner, folded=True)
    assert not worst(found) <= ITEM_TOLERANCE


def test_the_gate_on_a_bundle_of_random_weights(tmp_path: Path) -> None:
    """Everything but the encoders, which a random run has none of."""
    shop = write_features(write_shop(tmp_path / "data"), "text")
    model = {"sources": ["id", "position", "text"], "width": 8, "side_width": 8, "max_length": 8}
    recipe = parse_recipe({"model": {**model, "blocks": 1}, "fit": {"epochs": 1}}, "c.toml")
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, tmp_path / "run", resume=False).run(tmp_path / "run", quiet)
    run = open_run(tmp_path / "run", device=torch.device("cpu"))
    run = replace(run, info=replace(run.info, features={}))  # made-up texts have no encoder
    staged = stage(run, tmp_path / "staged", tmp_path / "repository")
    measured = measure(run, staged)
    report = measured.report
    report.check()
    assert report.sequence.users == report.held_out.users == len(measured.gains.asked)
    assert report.held_out.ndcg == pytest.approx(float(measured.gains.ndcg_E.mean()))
    assert report.buckets.keys() == {"1", "2", "4", "8"}
    assert report.subsets.keys() == {"no text", "ids only", "content only"}
    assert report.stored.table_rows == run.info.items + 1
    assert report.stored.initializers.keys() == {"sequence", "explain", "item"}
    assert report.explain is not None
    assert report.explain.users == report.held_out.users
    assert report.explain.left_out.keys() == {"nothing", "id", "position", "text"}
    assert all(
        found.largest_change > 0 or source == "nothing"
        for source, found in report.explain.left_out.items()
    )
