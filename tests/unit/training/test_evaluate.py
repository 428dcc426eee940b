"""Full rankings against brute force: all items, cold ones, missing content, what is recommended."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.random_run import ITEMS, random_log, random_run

from mmsr.training import evaluate
from mmsr.training.catalogue_use import coverage, mean_percentile, popularity_percentiles
from mmsr.training.checkpoint import RunError, RunRef
from mmsr.training.cold import cold_ranks, cold_users, evaluate_cold
from mmsr.training.config import Recipe, SplitConfig
from mmsr.training.evaluate import (
    Scorer,
    evaluation_rows,
    flatten,
    model_ranks,
    model_scorer,
    popularity_ranks,
    rank_and_recommend,
    rank_held_out,
)
from mmsr.training.evaluation import evaluate_run, save_evaluation
from mmsr.training.metrics import chance, summarise
from mmsr.training.missing import evaluate_missing, gain_kept, take_away
from mmsr.training.split import PARTS, Part, Split, leave_one_out, make_split
from mmsr.training.untrained import forget_untrained

COLD = SplitConfig(cold_share=0.2)


def tied_scorer(seed: int) -> Scorer:
    """Return a scorer with few distinct scores that depend on the history alone."""
    table = torch.from_numpy(np.random.default_rng(seed).integers(-2, 3, (ITEMS + 1, ITEMS + 1)))

    def score(histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
        return torch.stack([table[h.astype(np.int64)].sum(0).float() for h in histories])

    return score


def brute_order(scores: list[float], excluded: set[int], among: list[int]) -> list[int]:
    """Return rows best first; of equal scores the lower row first."""
    return sorted((r for r in among if r not in excluded), key=lambda r: (-scores[r], r))


def brute_rank(order: list[int], target: int, candidates: int) -> int:
    return order.index(target) + 1 if target in order else candidates + 1


def check_ranks(split: Split, part: Part, score: Scorer, found: evaluate.Ranks) -> None:
    users = split.evaluated(part).tolist()
    everything = list(range(1, ITEMS + 1))
    for place, user in enumerate(users):
        history, target = split.history(user, part), split.target(user, part)
        scores = score([history])[0].tolist()
        for mask, excluded in (("masked", set(history.tolist())), ("unmasked", set[int]())):
            order = brute_order(scores, excluded, everything)
            assert found[mask][place] == brute_rank(order, target, ITEMS), (user, mask)


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_ranks_of_every_user_equal_sorting(seed: int) -> None:
    split, score = leave_one_out(random_log(seed, users=25)), tied_scorer(seed)
    for part in PARTS:
        check_ranks(split, part, score, rank_held_out(split, part, score, ITEMS))


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_popularity_equals_sorting_by_training_counts(seed: int) -> None:
    split = make_split(random_log(seed, users=25), COLD)
    counts = torch.from_numpy(split.train_counts(ITEMS)).float()

    def score(histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
        return counts.expand(len(histories), -1)

    for part in PARTS:
        check_ranks(split, part, score, popularity_ranks(split, part, ITEMS))


def test_batches_do_not_change_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    split, score = leave_one_out(random_log(3)), tied_scorer(3)
    whole, best = rank_and_recommend(split, "test", score, ITEMS, k=4)
    monkeypatch.setattr(evaluate, "USERS_PER_CALL", 3)
    parts, parts_best = rank_and_recommend(split, "test", score, ITEMS, k=4)
    assert all(np.array_equal(whole[mask], parts[mask]) for mask in whole)
    assert np.array_equal(np.sort(best), np.sort(parts_best))


def test_metrics_equal_their_formulas_over_sorted_lists() -> None:
    split, score = leave_one_out(random_log(5)), tied_scorer(5)
    found = flatten("test", rank_held_out(split, "test", score, ITEMS))
    hits, gains, reciprocals = [], [], []
    for user in split.evaluated("test").tolist():
        history, target = split.history(user, "test"), split.target(user, "test")
        scores = score([history])[0].tolist()
        top = brute_order(scores, set(history.tolist()), list(range(1, ITEMS + 1)))[:10]
        hits.append(target in top)
        gains.append(1 / math.log2(top.index(target) + 2) if target in top else 0.0)
        reciprocals.append(1 / (top.index(target) + 1) if target in top else 0.0)
    assert found["test.masked.recall@10"] == pytest.approx(np.mean(hits))
    assert found["test.masked.ndcg@10"] == pytest.approx(np.mean(gains))
    assert found["test.masked.mrr@10"] == pytest.approx(np.mean(reciprocals))


def test_the_best_unseen_are_those_of_sorting() -> None:
    random = torch.Generator().manual_seed(0)
    table = torch.randn(ITEMS + 1, ITEMS + 1, generator=random)  # no ties

    def score(histories: list[npt.NDArray[np.int32]]) -> torch.Tensor:
        return torch.stack([table[h.astype(np.int64)].sum(0) for h in histories])

    split = leave_one_out(random_log(7))
    _, best = rank_and_recommend(split, "test", score, ITEMS, k=25)
    for place, user in enumerate(split.evaluated("test").tolist()):
        history = split.history(user, "test")
        order = brute_order(
            score([history])[0].tolist(), set(history.tolist()), list(range(1, ITEMS + 1))
        )
        wanted = [*order[:25], *[0] * max(0, 25 - len(order))]
        assert best[place].tolist() == wanted


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_cold_ranks_equal_sorting(seed: int) -> None:
    split, score = make_split(random_log(seed, users=25), COLD), tied_scorer(seed)
    cold = split.cold_rows.tolist()
    found = cold_ranks(split, score, ITEMS)
    users = [u for u in split.evaluated("test").tolist() if split.target(u, "test") in cold]
    assert cold_users(split).tolist() == users
    for place, user in enumerate(users):
        history, target = split.history(user, "test"), split.target(user, "test")
        assert not set(history.tolist()) & set(cold)
        scores = score([history])[0].tolist()
        everything = brute_order(scores, set(history.tolist()), list(range(1, ITEMS + 1)))
        assert found["masked"][place] == brute_rank(everything, target, ITEMS)
        assert found["cold"][place] == brute_rank(brute_order(scores, set(), cold), target, 0)


def test_chance_is_the_mean_over_all_ranks() -> None:
    found = chance(np.array([3, 25]))
    for name, value in found.items():
        means = [summarise(np.arange(1, n + 1))[name] for n in (3, 25)]
        assert value == pytest.approx(np.mean(means)), name


def test_coverage_and_popularity_by_hand() -> None:
    counts = np.array([9, 5, 0, 2, 2])  # row 0 is padding
    assert popularity_percentiles(counts)[1:].tolist() == [0.875, 0.125, 0.5, 0.5]
    best = np.array([[1, 3], [1, 0]])
    assert coverage(best, 4) == 0.5
    assert mean_percentile(best, counts) == pytest.approx((0.875 + 0.5 + 0.875) / 3)


def test_an_item_that_was_never_trained_on_is_its_content_and_the_unknown_id() -> None:
    run = random_run(COLD)
    counts = run.split.train_counts(ITEMS)
    ids = run.model.item_encoder.ids.weight
    with torch.no_grad():
        ids.normal_()  # as training leaves it: every row its own
    run.model.item_encoder.untrained_are_forgotten = False
    before = ids.clone()
    rows = evaluation_rows(run.model, run.content, run.split)
    assert torch.equal(ids, before)
    assert run.model.item_encoder.ids.weight is ids
    known = torch.from_numpy(counts > 0)
    known[0] = True
    expected = run.model.item_encoder(torch.where(known[:, None], before, before[:1]), run.content)
    assert not known.all()
    assert torch.equal(rows.outputs_nD, expected.outputs_nD)
    assert torch.equal(rows.inputs_nW, expected.inputs_nW)
    forget_untrained(run.model.item_encoder, counts)
    assert torch.equal(run.model.table(run.content).outputs_nD, rows.outputs_nD)


def test_new_items_rank_higher_with_less_of_the_unknown_id() -> None:
    """Of an unknown-id vector that pulls down; twice forgotten is scaled once."""
    outputs = {}
    for scale in (1.0, 0.25):
        run = random_run(COLD)
        encoder, counts = run.model.item_encoder, run.split.train_counts(ITEMS)
        encoder.config = replace(encoder.config, unknown_id_scale=scale)
        encoder.untrained_are_forgotten = False
        with torch.no_grad():
            encoder.ids.weight[0] = -1.0
        trained = encoder.ids.weight.clone()
        before = evaluation_rows(run.model, run.content, run.split).outputs_nD
        for _ in range(2):
            forget_untrained(encoder, counts)
        assert torch.equal(evaluation_rows(run.model, run.content, run.split).outputs_nD, before)
        new = torch.from_numpy(counts == 0)
        assert bool((encoder.ids.weight[new] == -scale).all())
        assert torch.equal(encoder.ids.weight[~new], trained[~new])
        outputs[scale] = before[run.split.cold_rows].sum()
    assert outputs[0.25] > outputs[1.0]


def test_a_model_is_ranked_in_evaluation_mode_and_left_as_it_was() -> None:
    run = random_run(SplitConfig())
    run.model.train()
    found = model_ranks(run.model, run.content, run.split, "test")
    assert run.model.training
    scorer = model_scorer(run.model.eval(), run.model.table(run.content))
    check_ranks(run.split, "test", scorer, found)


def test_an_evaluation_holds_all_that_was_promised(tmp_path: Path) -> None:
    run = random_run(SplitConfig(), sources=("id",))
    found = evaluate_run(run)
    metrics = found["metrics"]
    assert found["users"] == len(run.split.evaluated("test"))
    ranks = model_ranks(run.model, run.content, run.split, "test")
    popular = popularity_ranks(run.split, "test", ITEMS)
    expected = flatten("test", ranks) | flatten("popularity", popular)
    assert expected.items() <= metrics.items()
    assert any(name.startswith("validation.unmasked.mrr@20") for name in metrics)
    scorer = model_scorer(run.model, run.model.table(run.content))
    _, best = rank_and_recommend(run.split, "test", scorer, ITEMS, k=10)
    assert metrics["test.masked.coverage@10"] == len(set(best.ravel().tolist()) - {0}) / ITEMS
    percentiles = popularity_percentiles(run.split.train_counts(ITEMS))
    recommended, wanted = best[best > 0], run.split.test.target_U[run.split.evaluated("test")]
    assert metrics["test.masked.popularity_percentile@10"] == percentiles[recommended].mean()
    assert metrics["test.targets.popularity_percentile"] == percentiles[wanted].mean()
    above = found["above_popularity"]
    difference = metrics["test.masked.ndcg@10"] - metrics["popularity.masked.ndcg@10"]
    assert above["ndcg@10"] == pytest.approx(difference)
    assert above["low"] < above["ndcg@10"] < above["high"]
    save_evaluation(tmp_path, {**found, "cold": {"users": 3}})
    save_evaluation(tmp_path, found)
    kept = (tmp_path / "evaluation.json").read_text()
    assert '"cold"' in kept
    save_evaluation(tmp_path, {**found, "checkpoint": "epoch-0002"})
    assert '"cold"' not in (tmp_path / "evaluation.json").read_text()


def test_a_run_trained_on_everything_is_not_tested() -> None:
    run = random_run(SplitConfig())
    final = RunRef(run="runs/selected", checkpoint="epoch-0003", epoch=3, sha256="")
    with pytest.raises(RunError, match=r"nothing is left to test it on.*runs/selected"):
        evaluate_run(replace(run, info=replace(run.info, selected_by=final)))


def test_cold_items_are_ranked_by_all_four() -> None:
    run = random_run(COLD)
    evaluated = evaluate_cold(run)
    found = evaluated["metrics"]
    assert evaluated["users"] == len(cold_users(run.split))
    assert evaluated["items"] == len(run.split.cold_rows)
    assert list(found) == ["model", "content-kNN", "popularity", "chance"]
    scorer = model_scorer(run.model, run.model.table(run.content))
    for among, rank in cold_ranks(run.split, scorer, ITEMS).items():
        assert found["model"][among] == summarise(rank)
    assert list(evaluated["model_above"]) == ["content-kNN", "popularity"]
    for who, above in evaluated["model_above"].items():
        for among, value in above.items():
            difference = found["model"][among]["ndcg@10"] - found[who][among]["ndcg@10"]
            assert value["mean"] == pytest.approx(difference, abs=1e-12)
            assert value["low"] <= value["mean"] <= value["high"]
        assert list(above) == ["masked", "cold"]
    # Nobody has bought a cold item: by popularity they stand in the order of their rows.
    targets = run.split.test.target_U[cold_users(run.split)]
    places = 1 + np.searchsorted(run.split.cold_rows, targets)
    assert found["popularity"]["cold"] == summarise(places)
    assert found["chance"]["cold"]["recall@5"] == pytest.approx(5 / len(run.split.cold_rows))
    users = cold_users(run.split).tolist()
    eligible = [ITEMS - len(set(run.split.history(user, "test").tolist())) for user in users]
    assert found["chance"]["masked"]["recall@5"] == pytest.approx(
        np.mean([5 / n for n in eligible])
    )


def test_cold_items_of_a_run_without_content_have_no_neighbours() -> None:
    found = evaluate_cold(random_run(COLD, ("id",)))
    assert list(found["metrics"]) == ["model", "popularity", "chance"]
    assert list(found["model_above"]) == ["popularity"]


def test_a_run_without_cold_items_says_how_to_get_them() -> None:
    with pytest.raises(RunError, match=r"none is cold; set \[split\] cold_share"):
        evaluate_cold(random_run(SplitConfig()))


def test_a_modality_missing_everywhere_is_a_model_without_it() -> None:
    run = random_run(SplitConfig())
    found = evaluate_missing(run, {"text": [0.5, 1.0]})
    bare = replace(run.content, present={"text": torch.zeros(ITEMS + 1, dtype=torch.bool)})
    half, none = found["cases"]
    assert [(c["modality"], c["share"]) for c in found["cases"]] == [("text", 0.5), ("text", 1.0)]
    for part in PARTS:
        ranks = model_ranks(run.model, bare, run.split, part)
        assert none[part] == summarise(ranks["masked"])["ndcg@10"]
        whole = model_ranks(run.model, run.content, run.split, part)
        assert found["whole"][part] == summarise(whole["masked"])["ndcg@10"]
    assert len({none["test"], half["test"], found["whole"]["test"]}) == 3
    lost = none["to_whole"]
    assert lost["mean"] == pytest.approx(none["test"] - found["whole"]["test"], abs=1e-12)
    assert lost["low"] <= lost["mean"] <= lost["high"]
    assert "against" not in found
    assert "gain_kept" not in half


def test_what_is_taken_away_is_a_share_of_what_is_there() -> None:
    content = random_run(SplitConfig()).content
    before = content.present["text"].clone()
    half, most = (take_away(content, "text", share).present["text"] for share in (0.5, 0.75))
    assert torch.equal(content.present["text"], before)
    assert int(half.sum()) == round(int(before.sum()) / 2)
    assert bool((half <= before).all())
    assert bool((most <= half).all())
    assert not take_away(content, "text", 1.0).present["text"].any()


def test_the_gain_kept_is_measured_against_a_run_without_it() -> None:
    run, ids = random_run(SplitConfig()), random_run(SplitConfig(), ("id",))
    found = evaluate_missing(run, {"text": [0.5]}, ids)
    for part in PARTS:
        without = summarise(model_ranks(ids.model, ids.content, ids.split, part)["masked"])
        assert found["against"][part] == without["ndcg@10"]
    (half,) = found["cases"]
    ends = (found["whole"]["test"], found["against"]["test"])
    assert half["gain_kept"] == gain_kept(half["test"], *ends)
    past = half["past_half"]
    assert past["mean"] == pytest.approx(half["test"] - sum(ends) / 2, abs=1e-12)
    assert past["low"] <= past["mean"] <= past["high"]
    assert gain_kept(0.5, whole=0.6, without=0.2) == pytest.approx(0.75)
    assert gain_kept(0.5, whole=0.2, without=0.2) is None


def test_what_cannot_be_missing_or_compared_is_refused() -> None:
    run = random_run(SplitConfig())
    with pytest.raises(RunError, match=r"reads no 'image'; what it reads beside ids: text"):
        evaluate_missing(run, {"image": [0.5]})
    other = replace(run, info=replace(run.info, recipe=Recipe(split=COLD)))
    with pytest.raises(RunError, match=r"other data or another \[split\]"):
        evaluate_missing(run, {"text": [0.5]}, other)
