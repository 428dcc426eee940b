"""A comparison as lines and tables for people: on the terminal and as a report in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from mmsr.training.comparison import Comparison, Difference, Result

# Test metrics of the table, by their short names.
COLUMNS = {
    **{f"R@{k}": f"recall@{k}" for k in (5, 10, 20)},
    **{f"N@{k}": f"ndcg@{k}" for k in (5, 10, 20)},
    "MRR@10": "mrr@10",
}
NOTHING = "–"
MAIN_METRIC = "masked.ndcg@10"


def header(comparison: Comparison) -> list[str]:
    """Return the titles of the columns of `rows`."""
    percent = f"{comparison.interval:.0%}"
    return [
        "",
        *COLUMNS,
        f"N@10 minus {comparison.against} [{percent}]",
        "parameters",
        "s/epoch",
        "best epoch",
    ]


def rows(comparison: Comparison, joint: str = " ") -> list[list[str]]:
    """Return a row of the table for every result; `joint` stands in front of ± and of [."""
    return [_row(result, joint) for result in comparison.results]


def not_run_lines(comparison: Comparison) -> list[str]:
    """Return a line for whatever was not run, with the reason."""
    return [
        f"{n.name}{'' if n.seed is None else f', seed {n.seed}'}: {n.reason}"
        for n in comparison.not_run
    ]


def footer(comparison: Comparison) -> list[str]:
    """Return what the numbers are, in sentences."""
    lines = [
        f"Test metrics of {comparison.data.users_tested:,} users, all {comparison.data.items:,} "
        "items ranked, the user's history left out (masked).",
        "Validation NDCG@10 selected the epoch; the test was ranked once a run, after training.",
        _spread(comparison),
        f"In brackets: {comparison.interval:.0%} paired bootstrap interval of the mean per-user "
        f"difference to {comparison.against}, each user's values averaged over the seeds first; "
        "it holds the chance of the users drawn, not that of the seeds.",
    ]
    again = [
        r.folder for result in comparison.results for r in result.runs if r.test_evaluations > 1
    ]
    if again:
        lines.append(f"Lengthened after a test and then tested again: {', '.join(again)}.")
    return lines


def markdown(comparison: Comparison) -> str:
    """Return the report: how it was made, the tables, what was not run."""
    data, machine = comparison.data, comparison.machine
    device = "no GPU" if machine.device == "cpu" else machine.device
    versions = ", ".join(f"{name} {version}" for name, version in comparison.versions.items())
    parts = [
        f"# Comparison on {data.name}",
        f"Date: {comparison.time[:10]}. Commit: {comparison.commit or 'unknown'}. Machine: "
        f"{machine.processor}, cores: {machine.cores}, threads: {machine.threads}, "
        f"{machine.memory_gib:.1f} GiB, {device}. Python {machine.python}, {versions}.",
        f"Data: {data.users:,} users, {data.items:,} items, {data.interactions:,} interactions, "
        f"hash `{data.hash[:12]}`.",
        f"```sh\n{comparison.command}\n```",
        "## Test, history masked",
        _table(header(comparison), rows(comparison)),
        "\n".join(f"* {line}" for line in footer(comparison)),
        "## Test, history not masked",
        _unmasked(comparison),
        "## Runs",
        _runs(comparison),
    ]
    missing = not_run_lines(comparison)
    parts += ["## Not run", "\n".join(f"* {line}" for line in missing)] if missing else []
    return "\n\n".join(parts) + "\n"


def _row(result: Result, joint: str) -> list[str]:
    return [
        result.name,
        *(_over_seeds(result, f"masked.{name}", joint) for name in COLUMNS.values()),
        _difference(result, MAIN_METRIC, joint),
        NOTHING if result.parameters is None else f"{result.parameters:,}",
        f"{fmean(r.seconds_per_epoch for r in result.runs):.1f}" if result.runs else NOTHING,
        ", ".join(str(run.best_epoch) for run in result.runs) or NOTHING,
    ]


def _spread(comparison: Comparison) -> str:
    seeds = len(comparison.seeds)
    if seeds == 1:
        return "One seed: no spread can be given."
    if any(missing.seed is not None for missing in comparison.not_run):
        return f"Mean ± sample s.d. over the seeds that were run; {seeds} were asked for."
    return f"Mean ± sample s.d. over {seeds} seeds."


def _over_seeds(result: Result, metric: str, joint: str) -> str:
    mean = f"{result.mean[metric]:.4f}"
    if result.deviation is None:
        return mean
    return f"{mean}{joint}±{result.deviation[metric]:.4f}"


def _difference(result: Result, metric: str, joint: str) -> str:
    if result.difference is None:
        return NOTHING
    found: Difference = result.difference[metric]
    return f"{found.mean:+.4f}{joint}[{found.low:+.4f}, {found.high:+.4f}]"


def _unmasked(comparison: Comparison) -> str:
    metrics = {"R@10": "unmasked.recall@10", "N@10": "unmasked.ndcg@10"}
    titles = ["", *metrics, f"N@10 minus {comparison.against} [{comparison.interval:.0%}]"]
    return _table(
        titles,
        [
            [
                result.name,
                *(_over_seeds(result, metric, " ") for metric in metrics.values()),
                _difference(result, "unmasked.ndcg@10", " "),
            ]
            for result in comparison.results
        ],
    )


def _runs(comparison: Comparison) -> str:
    titles = ["", "seed", "validation N@10", "test N@10", "best epoch", "epochs", "commit"]
    lines = [
        [
            result.name,
            str(run.seed),
            f"{run.validation_ndcg:.4f}",
            f"{run.metrics[MAIN_METRIC]:.4f}",
            str(run.best_epoch),
            str(run.epochs),
            run.commit or NOTHING,
        ]
        for result in comparison.results
        for run in result.runs
    ]
    return _table(titles, lines) if lines else "None was finished."


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    ruler = ["---", *["--:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, ruler, *lines))
