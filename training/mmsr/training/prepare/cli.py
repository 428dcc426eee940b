"""`mmsr-train prepare`: a shop's files, or a generated shop, become prepared data."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mmsr.training.prepare.report import Report

app = typer.Typer(no_args_is_help=True, help="Bring data into the form that training reads.")

Out = Annotated[Path, typer.Argument(help="folder to write", metavar="OUT")]
Force = Annotated[bool, typer.Option("--force", help="replace prepared data that stand in OUT")]
KCore = Annotated[
    int | None,
    typer.Option(help="leave out users and items with fewer than K interactions", metavar="K"),
]
BrandCategories = Annotated[
    int | None,
    typer.Option(
        "--brand-categories", help="brands of at least N items are categories too", metavar="N"
    ),
]
ListSeparator = Annotated[
    str | None,
    typer.Option(
        "--list-separator", help="between categories given as one text; in CSV '|'", metavar="TEXT"
    ),
]
EditionName = Annotated[
    str | None, typer.Option(help="2014, 2018 or 2023; seen in the files unless told")
]
RequestsPerS = Annotated[
    float, typer.Option("--requests-per-s", help="at most so many, to one host")
]
FetchImages = Annotated[
    bool, typer.Option("--fetch-images", help="fetch what --images (or else OUT-images) lacks")
]
MinRating = Annotated[
    float | None, typer.Option(help="leave out interactions rated lower", metavar="R")
]


@app.command()
def table(
    src: Annotated[
        Path,
        typer.Argument(
            help="folder with interactions.* and items.* (parquet, csv or jsonl)", metavar="SRC"
        ),
    ],
    out: Out,
    interactions: Annotated[
        Path | None, typer.Option(help="instead of SRC's interactions.*", metavar="FILE")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="instead of SRC's items.*", metavar="FILE")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="where image paths start, if not at SRC", metavar="DIR")
    ] = None,
    k_core: KCore = None,
    brand_categories: BrandCategories = None,
    list_separator: ListSeparator = None,
    config: Annotated[
        Path | None, typer.Option(help="recipe; its prepare table holds unless told otherwise")
    ] = None,
    force: Force = False,
) -> None:
    """Check a shop's interactions and items and write them as prepared data.

    Interactions: user_id, item_id, timestamp (seconds or ISO 8601 dates).
    Items: item_id and any of title, description, brand, categories, image.
    Categories are a list, or one text with --list-separator between the
    names (in CSV '|' unless told otherwise); images are paths.

    Rows that break a rule are left out, counted in OUT/report.json and
    listed in OUT/rejected.jsonl. Interactions of a user at the same time
    keep the order of the file. With --k-core, items that nobody bought leave.
    """
    from mmsr.training.config import PrepareConfig, load_recipe
    from mmsr.training.prepare.output import refuse_overlap, staged_output
    from mmsr.training.prepare.progress import progress_bars
    from mmsr.training.prepare.sources import find_sources
    from mmsr.training.prepare.table import prepare_table, table_settings

    sources = find_sources(src, items, interactions, image_root)
    chosen = PrepareConfig() if config is None else load_recipe(config).prepare
    told: dict[str, Any] = {
        "k_core": k_core,
        "brand_categories": brand_categories,
        "list_separator": list_separator,
    }
    chosen = replace(chosen, **{k: v for k, v in told.items() if v is not None})
    settings = table_settings(src, sources, chosen)
    refuse_overlap(out, [sources.items, sources.interactions, sources.image_root])
    with staged_output(out, force) as stage, progress_bars() as progress:
        report = prepare_table(sources, stage, settings, progress)
    _print_report(report, out)


@app.command()
def toy(
    out: Out,
    items: Annotated[int, typer.Option(help="items in the catalogue")] = 400,
    users: Annotated[int, typer.Option(help="users")] = 1500,
    seed: Annotated[int, typer.Option(help="same seed and sizes, same shop")] = 0,
    interactions: Annotated[
        int | None, typer.Option(help="about how many in all; 12 a user unless told")
    ] = None,
    image_size: Annotated[int, typer.Option(help="pixels a side")] = 64,
    images: Annotated[bool, typer.Option("--images/--no-images", help="draw pictures")] = True,
    force: Force = False,
) -> None:
    """Generate a shop with pictures, texts and categories, then prepare it.

    What users buy follows from the look, the subject and the department of
    the items, so that each says something that item ids alone do not.
    The shop's own files are in OUT/source.
    """
    from mmsr.training.prepare.output import staged_output
    from mmsr.training.prepare.progress import progress_bars
    from mmsr.training.prepare.sources import find_sources
    from mmsr.training.prepare.table import TableSettings, prepare_table
    from mmsr.training.prepare.toy.settings import ToySettings, usual_interactions
    from mmsr.training.prepare.toy.shop import write_shop

    if interactions is None:
        interactions = usual_interactions(items, users)
    settings = ToySettings(
        items=items,
        users=users,
        interactions=interactions,
        seed=seed,
        image_size=image_size if images else None,
    )
    with staged_output(out, force) as stage, progress_bars() as progress:
        source = stage / "source"
        write_shop(source, settings, progress)
        table_settings = TableSettings(name=f"toy-{seed}", image_root="source")
        report = prepare_table(find_sources(source), stage, table_settings, progress)
    _print_report(report, out)


@app.command()
def amazon(
    reviews: Annotated[
        Path,
        typer.Argument(help="reviews_X_5.json.gz, X_5.json.gz or X.jsonl.gz", metavar="REVIEWS"),
    ],
    metadata: Annotated[
        Path, typer.Argument(help="meta_X.json.gz or meta_X.jsonl.gz", metavar="METADATA")
    ],
    out: Out,
    edition: EditionName = None,
    images: Annotated[
        Path | None, typer.Option(help="folder with ASIN.jpg, or named as links end", metavar="DIR")
    ] = None,
    fetch_images: FetchImages = False,
    requests_per_s: RequestsPerS = 5.0,
    min_rating: MinRating = None,
    k_core: KCore = None,
    brand_categories: BrandCategories = None,
    force: Force = False,
) -> None:
    """Bring in Amazon Reviews as published: the 2014, 2018 or 2023 edition.

    All items that somebody reviewed stay, also those without metadata.
    Images are fetched only with --fetch-images, from the links in the
    metadata; run it again to go on after an interruption. The pictures
    belong to others: see that you may use them.
    """
    from mmsr.training.prepare.amazon import AmazonFiles, prepare_amazon
    from mmsr.training.prepare.amazon_editions import find_edition, parse_edition
    from mmsr.training.prepare.fetch import FetchSettings
    from mmsr.training.prepare.output import refuse_overlap, staged_output
    from mmsr.training.prepare.picture_folder import require_folder
    from mmsr.training.prepare.preparation import ImportSettings
    from mmsr.training.prepare.progress import progress_bars

    if fetch_images and images is None:
        images = out.resolve().with_name(f"{out.resolve().name}-images")
    if images is not None and not fetch_images:
        require_folder(images)
    images = images.resolve() if images else None
    found = find_edition(reviews, metadata, parse_edition(edition))
    files = AmazonFiles(
        reviews=reviews,
        metadata=metadata,
        edition=found,
        images=images,
        fetch=FetchSettings(requests_per_s=requests_per_s) if fetch_images else None,
    )
    settings = ImportSettings(
        name=reviews.name.partition(".")[0],
        image_root=str(images) if images else ".",
        k_core=k_core,
        brand_items=brand_categories,
        origin=f"Amazon Reviews {found.value}",
        min_rating=min_rating,
    )
    refuse_overlap(out, [reviews, metadata, *([images] if images else [])])
    with staged_output(out, force) as stage, progress_bars() as progress:
        report = prepare_amazon(files, stage, settings, progress)
    _print_report(report, out)


@app.command()
def movielens(
    src: Annotated[
        Path, typer.Argument(help="ml-1m.zip, ml-20m.zip, ..., or its folder", metavar="SRC")
    ],
    out: Out,
    images: Annotated[
        Path | None, typer.Option(help="folder with MOVIEID.jpg", metavar="DIR")
    ] = None,
    min_rating: MinRating = None,
    k_core: KCore = None,
    force: Force = False,
) -> None:
    """Bring in MovieLens as published: 1M, 10M, 20M, 25M, 32M or latest.

    All movies that somebody rated stay; genres become categories.
    """
    from mmsr.training.prepare.movielens import prepare_movielens
    from mmsr.training.prepare.movielens_files import find_movielens
    from mmsr.training.prepare.output import refuse_overlap, staged_output
    from mmsr.training.prepare.picture_folder import require_folder
    from mmsr.training.prepare.preparation import ImportSettings
    from mmsr.training.prepare.progress import progress_bars

    if images is not None:
        require_folder(images)
        images = images.resolve()
    files = find_movielens(src)
    settings = ImportSettings(
        name=src.resolve().name.removesuffix(".zip"),
        image_root=str(images) if images else ".",
        k_core=k_core,
        origin="MovieLens",
        min_rating=min_rating,
    )
    refuse_overlap(out, [src, *([images] if images else [])])
    with staged_output(out, force) as stage, progress_bars() as progress:
        report = prepare_movielens(files, images, stage, settings, progress)
    _print_report(report, out)


def _print_report(report: "Report", out: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mmsr.training.prepare.ledger import NOTES, REJECTED
    from mmsr.training.prepare.report import REPORT

    data = report.prepared
    grid = Table(box=box.SIMPLE, show_header=False)
    grid.add_column()
    grid.add_column(justify="right")
    for label, value in (
        ("users", f"{data.users:,}"),
        ("items", f"{data.items:,}"),
        ("interactions", f"{data.interactions:,}"),
        ("mean length", f"{data.mean_length:.1f}"),
        ("categories", f"{data.categories:,}"),
        ("items with text", f"{data.items_with_text:,}"),
        ("items with image", f"{data.items_with_image:,}"),
        ("items with categories", f"{data.items_with_categories:,}"),
        ("items never bought", f"{data.items_never_bought:,}"),
        ("users with fewer than 3", f"{data.users_below_3_interactions:,}"),
    ):
        grid.add_row(label, value)
    listed = False
    for file in (report.items, report.interactions):
        for kind, counts in (("rejected", file.rejected), ("kept, but", file.notes)):
            for reason, count in counts.items():
                grid.add_row(f"{file.file}, {kind}: {reason}", f"{count:,}")
                listed = True
    console = Console()
    if origin := report.settings.get("origin"):
        console.print(origin, highlight=False)
    console.print(grid)
    lists = f" (lists: {REJECTED}, {NOTES})" if listed else ""
    console.print(f"report: {out / REPORT}{lists}", soft_wrap=True, highlight=False, markup=False)
