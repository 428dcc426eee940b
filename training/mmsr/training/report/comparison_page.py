"""The page of a comparison: the table, the differences with their intervals, all curves."""

from collections.abc import Sequence
from dataclasses import asdict

from mmsr.training.comparison import COMPARED, Comparison, Result
from mmsr.training.report.curves import Trained, compared_curves
from mmsr.training.report.evaluation_tables import metric_name
from mmsr.training.report.forest import Interval, forest_plot
from mmsr.training.report.html import (
    Html,
    facts,
    flat,
    folded,
    join,
    metric,
    plain,
    section,
    spoken,
    table,
    tag,
)
from mmsr.training.report.page import page
from mmsr.training.report.run_page import recipe_tables

SHOWN = ("recall@5", "recall@10", "recall@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10")
HISTORY = {"masked": "history masked", "unmasked": "history not masked"}
FOOTER = (
    "Validation chose each run's epoch; the test split was ranked after that. Every item of the "
    "catalogue is ranked; “masked” leaves out the items of the user's history."
)


def comparison_page(comparison: Comparison) -> str:
    """Return the page as one HTML document."""
    data, machine = comparison.data, asdict(comparison.machine)
    made = {"time": comparison.time, "commit": comparison.commit, **machine}
    made["versions"] = comparison.versions
    content = [
        _table(comparison),
        _differences(comparison),
        _curves(comparison),
        _not_run(comparison),
        _recipes(comparison.results),
        section("Data", facts(spoken(asdict(data)))),
        section("Made with", tag("pre", comparison.command), facts(spoken(made))),
    ]
    time = comparison.time[:16].replace("T", " ")
    subtitle = (
        f"{data.users_tested:,} of {data.users:,} users tested, {data.items:,} items, "
        f"{data.interactions:,} interactions · seeds {plain(comparison.seeds)} · {time} UTC"
    )
    return page(f"Comparison on {data.name}", subtitle, content, FOOTER)


def _table(comparison: Comparison) -> Html:
    masked = _results(comparison.results, "masked")
    unmasked = folded("The same, history not masked", _results(comparison.results, "unmasked"))
    text = "History masked. Means over the seeds ± their standard deviation; the best is bold."
    return section("Test metrics", tag("p", text, class_="muted"), masked, unmasked)


def _results(results: Sequence[Result], mask: str) -> Html:
    keys = [f"{mask}.{name}" for name in SHOWN if any(f"{mask}.{name}" in r.mean for r in results)]
    best = {key: max(r.mean[key] for r in results if key in r.mean) for key in keys}
    head = ["", *(metric_name(key.partition(".")[2]) for key in keys)]
    head += ["seeds", "parameters", "s/epoch", "best epoch"]
    rows = [[r.name, *(_cell(r, key, best[key]) for key in keys), *_training(r)] for r in results]
    return table(head, rows)


def _cell(result: Result, key: str, best: float) -> str:
    if key not in result.mean:
        return "–"
    text = metric(result.mean[key])
    shown = tag("span", text, class_="best") if result.mean[key] == best else text
    if result.deviation is None or key not in result.deviation:
        return shown
    return join([shown, tag("small", f"± {metric(result.deviation[key])}")])


def _training(result: Result) -> list[str]:
    if not result.runs:
        return ["–", plain(result.parameters), "–", "–"]
    seconds = sum(run.seconds_per_epoch for run in result.runs) / len(result.runs)
    epochs = ", ".join(f"{run.best_epoch}/{run.epochs}" for run in result.runs)
    return [str(len(result.runs)), plain(result.parameters), f"{seconds:.3g}", epochs]


def _differences(comparison: Comparison) -> Html:
    shown = {metric: _intervals(comparison, metric) for metric in COMPARED}
    plots = {metric: _plot(comparison, metric, found) for metric, found in shown.items() if found}
    if not plots:
        return Html("")
    first = [plot for metric, plot in plots.items() if metric.startswith("masked")]
    others = [plot for metric, plot in plots.items() if not metric.startswith("masked")]
    text = (
        f"Mean difference for each user to {comparison.against}, seeds averaged first, with its "
        f"paired bootstrap interval of {comparison.interval:.0%}. It holds the chance of the "
        "users drawn, not that of the seeds."
    )
    rest = folded("The same, history not masked", *others) if others else Html("")
    return section("Differences", tag("p", text, class_="muted"), *first, rest)


def _intervals(comparison: Comparison, metric: str) -> list[Interval]:
    return [
        Interval(name=r.name, mean=found.mean, low=found.low, high=found.high, scales=bool(r.runs))
        for r in comparison.results
        if r.difference is not None and (found := r.difference.get(metric)) is not None
    ]


def _plot(comparison: Comparison, metric: str, intervals: list[Interval]) -> Html:
    mask, _, name = metric.partition(".")
    title = tag("h3", f"{metric_name(name)}, {HISTORY[mask]}")
    head = ("", "", "difference", f"{comparison.interval:.0%} interval")
    return join([title, forest_plot(head, intervals)])


def _curves(comparison: Comparison) -> Html:
    trained = [result for result in comparison.results if result.runs]
    runs = [
        Trained(name=result.name, log=run.log, colour=colour)
        for colour, result in enumerate(trained)
        for run in result.runs
        if run.log
    ]
    if not runs:
        return Html("")
    text = "One line a seed; the epoch that was tested has a ring."
    return section("Training", tag("p", text, class_="muted"), compared_curves(runs))


def _not_run(comparison: Comparison) -> Html:
    if not comparison.not_run:
        return Html("")
    rows = [[n.name, plain(n.seed), n.reason] for n in comparison.not_run]
    return section("Not run", table(("", "seed", "reason"), rows, "texts"))


def _recipes(results: Sequence[Result]) -> Html:
    """Return what the recipes differ in, and the first one whole."""
    recipes = {r.name: dict(flat(r.recipe)) for r in results if r.recipe is not None}
    if not recipes:
        return Html("")
    keys = dict.fromkeys(key for recipe in recipes.values() for key in recipe)
    differing = [k for k in keys if len({recipe.get(k, "–") for recipe in recipes.values()}) > 1]
    rows = [[key, *(recipe.get(key, "–") for recipe in recipes.values())] for key in differing]
    first = next(r for r in results if r.recipe is not None)
    differences = table(["differs in", *recipes], rows, "texts") if rows else Html("")
    return section("Recipes", differences, recipe_tables(first.recipe or {}, f" of {first.name}"))
