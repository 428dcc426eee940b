"""What `mmsr-train evaluate` measures of a run, and where it is kept. Prints nothing.

RUN/evaluation.json holds `checkpoint`, `users` (of the test), `validation_users`, `repeats` (test
users who bought the item before), `metrics` (flat: `test.masked.ndcg@10`), `above_popularity` and,
if they were asked for, `cold` and `missing`.
"""

# E evaluated users

from pathlib import Path
from typing import Any

from mmsr.bundle.files import read_json, write_json
from mmsr.training.catalogue_use import coverage, mean_percentile
from mmsr.training.checkpoint import RunError
from mmsr.training.evaluate import (
    Ranks,
    evaluation_rows,
    flatten,
    model_ranks,
    model_scorer,
    popularity_ranks,
    rank_and_recommend,
)
from mmsr.training.metrics import per_user_ndcg
from mmsr.training.run import TrainedRun
from mmsr.training.split import Split
from mmsr.training.statistics import paired_interval

TOP = 10  # of coverage, popularity percentile and the interval
BOOTSTRAP_SEED = 0


def evaluate_run(run: TrainedRun) -> dict[str, Any]:
    """Return the metrics of validation, test and popularity, and how sure the gain over it is.

    `RunError` for a final run: it has been trained on what it would be tested on.
    """
    require_tested(run)
    split, items = run.split, run.info.items
    rows = evaluation_rows(run.model, run.content, split)
    scorer = model_scorer(run.model, rows)
    tested, best_EK = rank_and_recommend(split, "test", scorer, items, TOP)
    popular = popularity_ranks(split, "test", items)
    counts_N = split.train_counts(items)
    metrics = flatten("validation", model_ranks(run.model, run.content, split, "validation"))
    metrics |= flatten("test", tested) | flatten("popularity", popular)
    metrics[f"test.masked.coverage@{TOP}"] = coverage(best_EK, items)
    metrics[f"test.masked.popularity_percentile@{TOP}"] = mean_percentile(best_EK, counts_N)
    targets_E = split.test.target_U[split.evaluated("test")]
    metrics["test.targets.popularity_percentile"] = mean_percentile(targets_E, counts_N)
    return {
        "checkpoint": run.checkpoint.name,
        "users": len(targets_E),
        "validation_users": len(split.evaluated("validation")),
        "repeats": count_repeats(split),
        "metrics": metrics,
        "above_popularity": _above(tested, popular),
    }


def count_repeats(split: Split) -> int:
    """Return how many test users had the item before: a masked ranking cannot hit those."""
    return sum(split.target(u, "test") in split.history(u, "test") for u in split.evaluated())


def _above(found: Ranks, other: Ranks) -> dict[str, float]:
    """Return the mean difference in NDCG@10, history masked, and its 95 % interval."""
    one_E, other_E = (per_user_ndcg(ranks["masked"], TOP) for ranks in (found, other))
    low, high = paired_interval(one_E, other_E, BOOTSTRAP_SEED)
    return {f"ndcg@{TOP}": float((one_E - other_E).mean()), "low": low, "high": high}


def require_tested(run: TrainedRun) -> None:
    """Raise `RunError` for a run that was trained on everything."""
    selected_by = run.info.selected_by
    if selected_by is not None:
        raise RunError(
            f"{run.checkpoint.parents[1]} was trained on all interactions: nothing is left to test "
            f"it on; evaluate the run that it was selected by: {selected_by.run}"
        )


def save_evaluation(folder: Path, found: dict[str, Any]) -> None:
    """Write `folder/evaluation.json`; what was found before of the same checkpoint stays."""
    path = folder / "evaluation.json"
    before = read_json(path, "the metrics of a run") if path.is_file() else {}
    same = before.get("checkpoint") == found["checkpoint"]
    write_json(path, {**before, **found} if same else found)
