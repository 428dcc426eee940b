"""`mmsr-train evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.errors import MmsrError

MASKS = ("masked", "unmasked")  # whether the items of the history are left out of the ranking

console = Console(stderr=True)


class MissingOptionError(MmsrError):
    """`--missing` does not say what is to be missing."""


def evaluate(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    data: Annotated[Path | None, typer.Option(help="its data, if they were moved")] = None,
    cold: Annotated[
        bool, typer.Option("--cold", help="rank the items that cold_share kept out of training too")
    ] = False,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="take a modality from a share of the items, such as text=0.5,1.0"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="run without it: what --missing keeps of the gain over that"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write all of it there too")
    ] = None,
) -> None:
    """Rank every held-out item among the whole catalogue: Recall, NDCG and MRR at 5, 10, 20.

    Also coverage, popularity bias and the gain over popularity. RUN/evaluation.json keeps it all.
    """
    from mmsr.bundle.files import write_json
    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.cold import evaluate_cold
    from mmsr.training.evaluation import evaluate_run, save_evaluation
    from mmsr.training.missing import evaluate_missing
    from mmsr.training.run import open_run

    shares = dict(parse_missing(text) for text in missing or [])
    if against is not None and not shares:
        raise MissingOptionError("--against is compared by --missing; give that too")
    keep_freed_memory()
    trained = open_run(run, data)
    with console.status("ranking"):
        found = evaluate_run(trained)
        if cold:
            found["cold"] = evaluate_cold(trained)
        if shares:
            other = None if against is None else open_run(against, data)
            found["missing"] = evaluate_missing(trained, shares, other)
    save_evaluation(run, found)
    if json_file is not None:
        write_json(json_file, found)
    _print_metrics(found, trained.info.items)
    if cold:
        _print_cold(found["cold"])
    if shares:
        _print_missing(found["missing"])


def parse_missing(text: str) -> tuple[str, list[float]]:
    """Read `text=0.5,1.0`; `MissingOptionError` if it is something else."""
    modality, _, listed = text.partition("=")
    try:
        shares = [float(share) for share in listed.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 < share <= 1 for share in shares):
        raise MissingOptionError(
            f"--missing {text!r}; expected a modality and shares above 0 and up to 1, such as "
            "text=0.5,1.0"
        )
    return modality, shares


def _table(title: str, first: str, columns: list[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,  # seven columns in a terminal of 80
    )
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _print_metrics(found: dict[str, Any], items: int) -> None:
    metrics: dict[str, float] = found["metrics"]
    parts = [(part, mask) for part in ("test", "validation", "popularity") for mask in MASKS]
    tested, validated = found["users"], found["validation_users"]
    users = f"{tested} users" if tested == validated else f"{tested} users ({validated} validation)"
    title = f"{users}, {items} items, all ranked"
    table = _table(title, "history", [f"{part}\n{mask}" for part, mask in parts])
    for name in [f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (5, 10, 20)]:
        row = [metrics[f"{part}.{mask}.{name}"] for part, mask in parts]
        table.add_row(name, *(f"{value:.4f}" for value in row))
    above = found["above_popularity"]
    out = Console()
    out.print(table)
    out.print(
        "masked: the items of a user's history are left out of the ranking; "
        f"{found['repeats']} of {tested} test targets are such items, which masked cannot hit\n"
        f"NDCG@10 above popularity, masked: {above['ndcg@10']:+.4f}, 95 % interval "
        f"{above['low']:+.4f} to {above['high']:+.4f} (users resampled in pairs)\n"
        f"coverage@10: {metrics['test.masked.coverage@10']:.1%} of the items are recommended to "
        "somebody\n"
        "popularity (0 rare, 1 popular; all items 0.5): "
        f"{metrics['test.masked.popularity_percentile@10']:.2f} of the top 10, "
        f"{metrics['test.targets.popularity_percentile']:.2f} of the targets",
        soft_wrap=True,
        highlight=False,
    )


def _print_cold(found: dict[str, Any]) -> None:
    from mmsr.training.statistics import signed_interval

    title = f"\n{found['items']} cold items, {found['users']} users whose target is one of them"
    shown = [
        (among, head, name)
        for among, head in (("masked", "all"), ("cold", "cold"))
        for name in ("recall@10", "ndcg@10", "mrr@10")
    ]
    table = _table(title, "among", [f"{head}\n{name}" for _, head, name in shown])
    for who, metrics in found["metrics"].items():
        table.add_row(who, *(f"{metrics[among][name]:.4f}" for among, _, name in shown))
    out = Console()
    out.print(table)
    for who, above in found["model_above"].items():
        out.print(
            f"model minus {who}, NDCG@10 [95 %]: {signed_interval(above['masked'])} among all, "
            f"{signed_interval(above['cold'])} among the cold",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    out.print(
        "ranked among all items (history masked) and among the cold ones; popularity: nobody has "
        "bought a cold item, so they come last, in the order of their rows",
        soft_wrap=True,
    )


def _print_missing(found: dict[str, Any]) -> None:
    from mmsr.training.statistics import signed_interval

    against: dict[str, float] | None = found.get("against")
    gain = [] if against is None else ["gain kept"]
    columns = ["validation", "test", "test minus whole [95 %]", *gain]
    table = _table("\nNDCG@10, history masked, items lacking a modality", "missing", columns)
    table.add_row("nothing", *_both(found["whole"]), "–", *("100 %" for _ in gain))
    for case in found["cases"]:
        name = f"{case['modality']} {case['share']:.0%}"
        kept = [_percent(case["gain_kept"]) for _ in gain]
        table.add_row(name, *_both(case), signed_interval(case["to_whole"]), *kept)
    if against is not None:
        table.add_row("(--against)", *_both(against), "", "0 %")
    Console().print(table)


def _both(values: dict[str, float]) -> list[str]:
    return [f"{values[part]:.4f}" for part in ("validation", "test")]


def _percent(share: float | None) -> str:
    return "no gain" if share is None else f"{100 * share:.0f} %"
