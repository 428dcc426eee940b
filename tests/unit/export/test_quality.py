"""A candidate beside popularity and the live bundle: what is measured, and what is refused."""

# E users

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.small_features import write_features
from support.small_shop import ITEMS, write_shop
from support.tiny_bundle import Shop, Sizes, publish

from mmsr.bundle.files import write_json
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.model import open_model
from mmsr.export.held_out import (
    Comparison,
    Gains,
    Interactions,
    bundle_gains,
    compare,
    held_out,
    popularity_gains,
)
from mmsr.export.quality import (
    LiveReport,
    Policy,
    QualityError,
    QualityReport,
    Size,
    in_rows_of,
    judge,
)
from mmsr.training.checkpoint import RunRef, run_ref
from mmsr.training.config import parse_recipe, recipe_to_dict
from mmsr.training.evaluate import popularity_ranks
from mmsr.training.fit import Hooks
from mmsr.training.metrics import per_user_ndcg
from mmsr.training.run import TrainedRun, open_run, start_run
from mmsr.training.whole_split import nothing_held_out

ABOVE = Comparison(users=900, ndcg=0.2, reference=0.1, low=0.08, high=0.12)
LOWER = Comparison(users=900, ndcg=0.18, reference=0.2, low=-0.03, high=-0.01)
SIZE = Size(items=1000, interactions=50_000)
LIVE = LiveReport(bundle_id="0123456789abcdef", size=SIZE, ndcg=ABOVE)
GOOD = QualityReport(
    measured_on="run", size=SIZE, popularity=ABOVE, live=LIVE, max_drop=0.05, accept_drop=False
)


def test_a_good_candidate_passes_with_a_live_bundle_and_without() -> None:
    GOOD.check()
    replace(GOOD, live=None).check()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"live": replace(LIVE, ndcg=LOWER)},
            "NDCG@10 0.1800 is 10.0% lower than 0.2000 of the live bundle 0123456789abcdef (900 "
            "users, 95 % interval -0.0300 to -0.0100), at most 5.0% allowed",
        ),
        (
            {"size": replace(SIZE, items=799)},
            "799 items, 20% fewer than the 1000 of the live bundle 0123456789abcdef, at most 20%",
        ),
        ({"size": replace(SIZE, interactions=30_000)}, "30000 interactions, 40% fewer"),
        (
            {"popularity": replace(ABOVE, ndcg=0.1)},
            "NDCG@10 0.1000 does not beat popularity's 0.1000 (900 users)",
        ),
        ({"popularity": None, "live": None}, "the quality cannot be told"),
    ],
)
def test_what_is_refused_and_published_if_accepted(change: dict[str, Any], complaint: str) -> None:
    bad = replace(GOOD, **change)
    with pytest.raises(QualityError) as refused:
        bad.check()
    assert complaint in str(refused.value)
    assert "nothing was published; --accept-drop" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 3
    assert refused.value.quality == bad
    accepted = replace(bad, accept_drop=True)
    accepted.check()
    told = accepted.to_json()
    assert told["accept_drop"] is True
    assert complaint in told["problems"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"live": replace(LIVE, ndcg=replace(LOWER, high=0.001))},  # may be chance
        {"live": replace(LIVE, ndcg=replace(LOWER, ndcg=0.191))},  # 4.5 %
        {"live": replace(LIVE, ndcg=LOWER), "max_drop": 0.2},
        {"size": Size(items=800, interactions=40_000)},
        {"live": replace(LIVE, size=None, ndcg=None, why="damaged")},
    ],
)
def test_what_is_not_refused(change: dict[str, Any]) -> None:
    replace(GOOD, **change).check()


def test_a_comparison_is_of_the_same_users() -> None:
    found = compare(np.array([1.0, 0.0, 0.5, 0.0]), np.array([1.0, 1.0, 1.0, 1.0]))
    assert (found.users, found.ndcg, found.reference) == (4, 0.375, 1.0)
    assert found.loss == 0.625
    assert found.low < -0.625 < found.high < 0
    assert compare(np.zeros(3), np.zeros(3)).loss == 0.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The live bundle: its items are the first 30 of the run's 40."""
    return publish(tmp_path_factory.mktemp("live") / "repository", Sizes(items=30))


def test_a_bundles_gains_are_those_of_brute_force(shop: Shop) -> None:
    random = np.random.default_rng(0)
    histories = [random.integers(1, 31, random.integers(1, 20)).astype(np.int32) for _ in range(90)]
    target_E = random.integers(1, 31, len(histories))
    model = open_model(shop.folder, threads=1)
    for exclude_seen in (True, False):
        asked = Interactions(
            users_E=np.arange(len(histories)),
            histories=histories,
            target_E=target_E,
            exclude_seen=exclude_seen,
        )
        gain_E = bundle_gains(model, asked)
        for history, target, gain in zip(histories, target_E, gain_E, strict=True):
            ids = [shop.twin.ids[row - 1] for row in history]
            best = shop.twin.recommend(ids, 10, excluded=ids if exclude_seen else ())
            found = [item for item, _ in best]
            wanted = shop.twin.ids[target - 1]
            place = found.index(wanted) if wanted in found else None
            assert gain == pytest.approx(0.0 if place is None else 1 / np.log2(place + 2))
    assert gain_E.any()
    model.close()


def test_without_a_known_item_a_user_gets_what_is_popular(shop: Shop) -> None:
    model = open_model(shop.folder, threads=1)
    first = int(np.argsort(-shop.twin.popularity_N, kind="stable")[0]) + 1
    asked = Interactions(
        users_E=np.arange(3),
        histories=[np.array([0, 0], np.int32), np.array([0], np.int32), np.array([5], np.int32)],
        target_E=np.array([first, 0, 0]),
        exclude_seen=True,
    )
    assert bundle_gains(model, asked).tolist() == [1.0, 0.0, 0.0]
    model.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    root = tmp_path_factory.mktemp("run")
    data = write_features(write_shop(root / "data"))
    model = {"sources": ["id", "position"], "width": 8, "side_width": 8, "blocks": 1}
    recipe = parse_recipe({"model": {**model, "max_length": 8}, "fit": {"epochs": 1}}, "c.toml")
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, data, root / "run", resume=False).run(root / "run", quiet)
    return open_run(root / "run", device=torch.device("cpu"))


def judged(run: TrainedRun, root: Path, gain: float = 0.9) -> QualityReport:
    """Judge the run as if every user had this gain."""
    asked = held_out(run.split, True)
    gains = Gains(asked=asked, ndcg_E=np.full(len(asked), gain))
    return judge(run, gains, Repository(root), "stable", Policy())


def with_provenance(shop: Shop, tmp_path: Path, **provenance: Any) -> Path:
    """Return a repository whose live bundle says this of itself."""
    copy = publish(tmp_path / "repository", shop.sizes)
    manifest = load_manifest(copy.folder)
    replace(manifest, provenance=provenance).save(copy.folder)
    return copy.root


def test_without_a_live_bundle_only_popularity_counts(run: TrainedRun, tmp_path: Path) -> None:
    Repository(tmp_path).create()
    report = judged(run, tmp_path)
    assert report.live is None
    report.check()
    with pytest.raises(QualityError, match="does not beat popularity"):
        judged(run, tmp_path, gain=0.0).check()


def test_popularity_is_that_of_the_evaluation(run: TrainedRun) -> None:
    asked = held_out(run.split, True)
    some = asked.some(np.arange(0, len(asked), 3))
    masked = popularity_ranks(run.split, "test", ITEMS)["masked"]
    everyone = per_user_ndcg(masked, 10)
    assert np.array_equal(popularity_gains(run.split, ITEMS, some), everyone[::3])


def test_of_many_users_a_fixed_sample_is_asked(run: TrainedRun) -> None:
    some, again = held_out(run.split, True, most=10), held_out(run.split, True, most=10)
    assert len(some) == 10
    assert np.array_equal(some.users_E, again.users_E)
    assert set(some.users_E) <= set(run.split.evaluated("test"))


def test_the_live_bundle_answers_in_its_own_rows(run: TrainedRun, shop: Shop) -> None:
    asked = held_out(run.split, True)
    model = open_model(shop.folder, threads=1)
    mapped = in_rows_of(model, run, asked)
    model.close()
    ids = run.dataset.item_table(["item_id"])["item_id"].to_pylist()
    rows = model.bundle.catalogue.rows()
    for before, after in zip(asked.histories, mapped.histories, strict=True):
        assert after.tolist() == [rows.get(ids[row - 1], 0) for row in before]
    assert mapped.target_E.tolist() == [rows.get(ids[row - 1], 0) for row in asked.target_E]


def test_a_candidate_is_compared_with_the_live_bundle_on_all_users(
    run: TrainedRun, shop: Shop
) -> None:
    report = judged(run, shop.root)
    assert report.live is not None
    assert report.live.bundle_id == shop.folder.name
    assert report.live.size == Size(items=30, interactions=int(shop.twin.popularity_N.sum()))
    assert report.live.ndcg is not None
    assert report.live.ndcg.users == len(run.split.evaluated("test"))
    assert 0 < report.live.ndcg.reference < report.live.ndcg.ndcg


def test_a_live_bundle_trained_on_everything_is_asked_for_what_is_newer(
    run: TrainedRun, shop: Shop, tmp_path: Path
) -> None:
    times = run.dataset.times_T[run.split.test.history_end_U[run.split.evaluated("test")]]
    newest = float(np.sort(times)[-6])
    root = with_provenance(shop, tmp_path, selected_by={"run": "x"}, newest=newest)
    live = judged(run, root).live
    assert live is not None
    assert live.ndcg is not None
    assert live.ndcg.users == 5
    for unknown in ({}, {"newest": float(times.max())}):
        root = with_provenance(shop, tmp_path, selected_by={"run": "x"}, **unknown)
        live = judged(run, root).live
        assert live is not None
        assert (live.ndcg, live.why) == (
            None,
            "the live bundle was trained on all that is held out here, or may have been",
        )


def test_a_live_bundle_that_held_out_otherwise_is_asked_for_what_is_newer(
    run: TrainedRun, shop: Shop, tmp_path: Path
) -> None:
    """By the clock, it has learned the last purchases of whoever has not come back since."""
    times = run.dataset.times_T[run.split.test.history_end_U[run.split.evaluated("test")]]
    newest = float(np.sort(times)[-6])
    own = recipe_to_dict(run.info.recipe)["split"]
    for split, users in ((own, len(times)), (own | {"kind": "temporal"}, 5)):
        root = with_provenance(shop, tmp_path, recipe={"split": split}, newest=newest)
        live = judged(run, root).live
        assert live is not None
        assert live.ndcg is not None
        assert live.ndcg.users == users


def test_a_damaged_live_bundle_does_not_bar_its_successor(
    run: TrainedRun, shop: Shop, tmp_path: Path
) -> None:
    copy = publish(tmp_path / "repository", shop.sizes)
    (copy.folder / "sequence.onnx").write_bytes(b"x")
    report = judged(run, copy.root)
    assert report.live is not None
    assert (report.live.ndcg, report.live.instead) == (None, None)
    report.check()
    [warning] = report.warnings()
    assert "sequence.onnx: 1 bytes" in warning
    assert warning.endswith("the candidate was not compared with any")
    assert report.to_json()["warnings"] == [warning]


def test_where_the_live_bundle_is_damaged_the_last_whole_one_before_it_judges(
    run: TrainedRun, shop: Shop, tmp_path: Path
) -> None:
    repository = Repository(tmp_path / "repository")
    before, pruned, live = (
        publish(repository.root, shop.sizes, seed=seed).folder for seed in (1, 2, 3)
    )
    (live / "sequence.onnx").write_bytes(b"x")
    shutil.rmtree(pruned)
    good = judged(run, repository.root)
    assert good.live is not None
    assert (good.live.bundle_id, good.live.instead) == (live.name, before.name)
    assert good.live.ndcg is not None
    [warning] = good.warnings()
    assert warning.endswith(f"was compared with {before.name}, live before it")
    replace(good, live=replace(good.live, size=good.size)).check()
    bad = replace(good, live=replace(good.live, ndcg=LOWER))
    named = rf"of bundle {before.name}, live before {live.name} \(damaged\)"
    with pytest.raises(QualityError, match=named):
        bad.check()


def final_of(run: TrainedRun, selected_by: RunRef) -> TrainedRun:
    return replace(
        run,
        info=replace(run.info, selected_by=selected_by),
        split=nothing_held_out(run.dataset),
    )


def test_a_final_run_is_judged_by_the_run_that_it_was_selected_by(
    run: TrainedRun, shop: Shop
) -> None:
    final = final_of(run, run_ref(run.checkpoint.parents[1]))
    report = judged(final, shop.root)
    assert report.measured_on == "the run that it was selected by"
    assert report.popularity is not None
    assert 0 < report.popularity.ndcg < 0.9
    assert report.final is not None
    assert report.final.ndcg == pytest.approx(0.9)
    assert report.final.reference < 0.9
    gone = RunRef(run="gone", checkpoint="epoch-0001", epoch=1, sha256="0")
    report = judged(final_of(run, gone), shop.root)
    assert report.measured_on == "nothing"
    with pytest.raises(QualityError, match="the quality cannot be told"):
        report.check()


@pytest.mark.parametrize("gone", [False, True])
def test_final_weights_that_have_not_learned_what_they_were_shown_are_refused(
    run: TrainedRun, tmp_path: Path, gone: bool
) -> None:
    """The run that chose the recipe may be as good as it likes: these weights would be served."""
    selected_by = run_ref(run.checkpoint.parents[1])
    if gone:
        selected_by = RunRef(run="gone", checkpoint="epoch-0001", epoch=1, sha256="0")
    Repository(tmp_path).create()
    report = judged(final_of(run, selected_by), tmp_path, gain=0.0)
    with pytest.raises(QualityError, match=r"the final training went wrong: NDCG@10 0\.0000 on"):
        report.check()
    assert judged(run, tmp_path).final is None


def test_metrics_stand_in_for_a_selecting_run_that_is_gone(run: TrainedRun, tmp_path: Path) -> None:
    gone = RunRef(run="gone", checkpoint="epoch-0001", epoch=1, sha256="0")
    checkpoint = tmp_path / "run/checkpoints" / run.checkpoint.name
    final = replace(run, info=replace(run.info, selected_by=gone), checkpoint=checkpoint)
    metrics = {"test.masked.ndcg@10": 0.1, "popularity.masked.ndcg@10": 0.2}
    above = {"ndcg@10": -0.1, "low": -0.2, "high": -0.05}
    found = {"users": 9, "metrics": metrics, "above_popularity": above}
    write_json(tmp_path / "run/evaluation.json", found | {"checkpoint": run.checkpoint.name})
    Repository(tmp_path / "repository").create()
    report = judged(final, tmp_path / "repository")
    assert report.measured_on == "evaluation.json"
    with pytest.raises(QualityError, match=r"NDCG@10 0\.1000 does not beat popularity's 0\.2000"):
        report.check()
    write_json(tmp_path / "run/evaluation.json", found | {"checkpoint": "epoch-0099"})
    assert judged(final, tmp_path / "repository").measured_on == "nothing"
