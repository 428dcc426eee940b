"""The curves of training, by epoch: of one run, or of several in the same charts."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmsr.training.report.charts import Series, charts, legend, line_chart
from mmsr.training.report.html import Html, join
from mmsr.training.report.runs import NDCG, RECALL, Log, best_epoch, column
from mmsr.training.selection import column_of

RATE = "learning_rate"
TITLES = {
    "loss": "Loss",
    NDCG: "Validation NDCG@10, history masked",
    RECALL: "Validation Recall@10, history masked",
    column_of("unmasked", "ndcg@10"): "Validation NDCG@10, history not masked",
    column_of("unmasked", "recall@10"): "Validation Recall@10, history not masked",
    RATE: "Learning rate, at the epoch's end",
    "train_s": "Seconds an epoch, training",
    "validate_s": "Seconds an epoch, validation",
    "sequences_per_s": "Sequences a second, training",
    "peak_rss_mib": "Peak memory, MiB",
}
COMPARED = (NDCG, RECALL, "loss", RATE, "train_s")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What is drawn of one run."""

    name: str
    log: Log
    colour: int = 0


def run_curves(run: Trained) -> Html:
    """Return a chart for every column of the log; the epoch that is kept has a ring."""
    columns = dict.fromkeys(name for line in run.log for name in line if name != "epoch")
    known = [name for name in TITLES if name in columns]
    return _charts([run], [*known, *(name for name in columns if name not in TITLES)])


def compared_curves(runs: Sequence[Trained]) -> Html:
    """Return the charts that compare runs, under one legend."""
    named = [Series(name=run.name, points=(), colour=run.colour) for run in runs]
    return join([legend(named), _charts(runs, COMPARED)])


def _charts(runs: Sequence[Trained], columns: Sequence[str]) -> Html:
    return charts([line_chart(TITLES.get(c, c), [_series(r, c) for r in runs]) for c in columns])


def _series(run: Trained, name: str) -> Series:
    best = best_epoch(run.log) if name.startswith("validation.") else None
    return Series(name=run.name, points=column(run.log, name), colour=run.colour, best=best)
