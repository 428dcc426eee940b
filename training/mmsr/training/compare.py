"""Sums finished runs and untrained baselines up: means, deviations, paired intervals."""

# U evaluated users

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median

import numpy as np

from mmsr.training.baselines.content_knn import MODALITIES, NoFeaturesError, content_knn_scorer
from mmsr.training.compare_plan import CompareError
from mmsr.training.compare_runs import FinishedRun, Runs
from mmsr.training.comparison import (
    COMPARED,
    CONTENT_KNN,
    MASKS,
    POPULARITY,
    TRAINED,
    ComparedData,
    Comparison,
    Difference,
    NotRun,
    Result,
    SeedRun,
)
from mmsr.training.config import ModelConfig, Recipe, recipe_to_dict
from mmsr.training.content import load_content
from mmsr.training.dataset import Dataset
from mmsr.training.evaluate import Ranks, popularity_ranks, rank_held_out
from mmsr.training.features.store import open_features
from mmsr.training.machine import describe_machine
from mmsr.training.metrics import per_user_ndcg, summarise
from mmsr.training.run import commits, provenance
from mmsr.training.split import Split, make_split
from mmsr.training.statistics import (
    LEVEL,
    Floats,
    average_over_seeds,
    mean_and_deviation,
    paired_difference,
)

BOOTSTRAP_SEED = 0
CUTOFF = 10  # of what COMPARED names


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A line of the table before it is summed up: its ranks, one of every seed."""

    result: Result
    ranks: tuple[Ranks, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for."""

    command: str
    recipes: Mapping[str, Recipe]
    seeds: int
    against: str | None  # None: the first recipe


def choose_against(asked: Asked) -> str:
    """Return the name that all are compared with; `CompareError` if no line has it."""
    names = [*asked.recipes, POPULARITY, CONTENT_KNN]
    against = asked.against or names[0]
    if against not in names:
        raise CompareError(f"--against {against!r}; expected one of: {', '.join(names)}")
    return against


def summarise_comparison(asked: Asked, runs: Runs, dataset: Dataset) -> Comparison:
    """Rank the baselines and compare everything that was run."""
    against = choose_against(asked)
    split = make_split(dataset, next(iter(asked.recipes.values())).split)
    contenders = _trained(asked, runs.finished)
    baselines, missing = _untrained(dataset, split)
    contenders += baselines
    reference = next((c for c in contenders if c.result.name == against), None)
    made_with = provenance()
    return Comparison(
        command=asked.command,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=made_with["commit"],
        machine=describe_machine(),
        versions=made_with["versions"],
        data=ComparedData(
            name=dataset.info.name,
            hash=dataset.info.content_hash,
            users=dataset.info.users,
            users_tested=len(split.evaluated("test")),
            items=dataset.info.items,
            interactions=dataset.info.interactions,
        ),
        seeds=tuple(range(asked.seeds)),
        against=against,
        interval=LEVEL,
        results=tuple(_with_differences(c, reference) for c in contenders),
        not_run=(*runs.not_run, *missing),
    )


def _trained(asked: Asked, finished: Sequence[FinishedRun]) -> list[Contender]:
    own = {name: [run for run in finished if run.planned.name == name] for name in asked.recipes}
    return [_contender(name, asked.recipes[name], runs) for name, runs in own.items() if runs]


def _contender(name: str, recipe: Recipe, finished: Sequence[FinishedRun]) -> Contender:
    runs = tuple(_seed_run(run) for run in finished)
    over_seeds = {
        key: mean_and_deviation([run.metrics[key] for run in runs]) for key in runs[0].metrics
    }
    result = Result(
        name=name,
        kind=TRAINED,
        recipe=recipe_to_dict(recipe),
        parameters=finished[0].parameters,
        runs=runs,
        mean={key: mean for key, (mean, _) in over_seeds.items()},
        deviation={key: d for key, (_, d) in over_seeds.items() if d is not None} or None,
        difference=None,
    )
    return Contender(result=result, ranks=tuple(run.tested.ranks for run in finished))


def _seed_run(run: FinishedRun) -> SeedRun:
    log = run.progress.log
    return SeedRun(
        seed=run.planned.seed,
        folder=run.planned.folder,
        epochs=run.progress.epoch,
        best_epoch=run.progress.best_epoch,
        validation_ndcg=run.progress.best_ndcg,
        seconds_per_epoch=median(line["train_s"] for line in log),
        test_evaluations=run.tested.evaluations,
        commit=commits(run.info.provenance),
        log=tuple(log),
        metrics=_metrics(run.tested.ranks),
    )


def _untrained(dataset: Dataset, split: Split) -> tuple[list[Contender], list[NotRun]]:
    items = dataset.info.items
    contenders = [_baseline(POPULARITY, popularity_ranks(split, "test", items))]
    config = ModelConfig(sources=("id", *MODALITIES))
    try:
        scorer = content_knn_scorer(load_content(dataset, open_features(dataset), config))
    except NoFeaturesError as error:
        return contenders, [NotRun(name=CONTENT_KNN, seed=None, reason=str(error))]
    contenders.append(_baseline(CONTENT_KNN, rank_held_out(split, "test", scorer, items)))
    return contenders, []


def _baseline(name: str, ranks: Ranks) -> Contender:
    result = Result(
        name=name,
        kind=name,
        recipe=None,
        parameters=None,
        runs=(),
        mean=_metrics(ranks),
        deviation=None,
        difference=None,
    )
    return Contender(result=result, ranks=(ranks,))


def _metrics(ranks: Ranks) -> dict[str, float]:
    return {f"{mask}.{k}": v for mask in MASKS for k, v in summarise(ranks[mask]).items()}


def _with_differences(contender: Contender, reference: Contender | None) -> Result:
    if reference is None or contender is reference:
        return contender.result
    differences = {metric: _difference(metric, contender, reference) for metric in COMPARED}
    return replace(contender.result, difference=differences)


def _difference(metric: str, ours: Contender, theirs: Contender) -> Difference:
    a_U, b_U = (_per_user(metric, contender) for contender in (ours, theirs))
    return Difference(**paired_difference(a_U, b_U, BOOTSTRAP_SEED))


def _per_user(metric: str, contender: Contender) -> Floats:
    """Return one of COMPARED for every user [U], the mean over the seeds."""
    mask, _, name = metric.partition(".")
    ranks = [r[mask] for r in contender.ranks]
    if name.startswith("ndcg"):
        return average_over_seeds([per_user_ndcg(rank_U, CUTOFF) for rank_U in ranks])
    return average_over_seeds([(rank_U <= CUTOFF).astype(np.float64) for rank_U in ranks])
