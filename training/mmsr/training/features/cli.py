"""`mmsr-train features`: reads the settings, runs the extraction, prints what came of it."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsr.training.features.config import FeaturesConfig, FeaturesError, features_config

if TYPE_CHECKING:
    from mmsr.training.features.report import FeaturesReport, ModalityReport


def features(
    data: Annotated[Path, typer.Argument(help="Prepared data; features go to DATA/features.")],
    config: Annotated[
        Path | None, typer.Option(help="A recipe in TOML; its features table is read, flags win.")
    ] = None,
    image_encoder: Annotated[
        str | None, typer.Option(help="Any torchvision classifier. (default: vgg16)")
    ] = None,
    image_layer: Annotated[str | None, typer.Option(help="gap or fc7. (default: gap)")] = None,
    image_weights: Annotated[
        str | None, typer.Option(help=".safetensors or .pth. (default: torchvision's hub)")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels a side. (default: 224)")] = None,
    random_weights: Annotated[
        bool | None,
        typer.Option("--random-weights/--no-random-weights", help="Untrained image encoder."),
    ] = None,
    random_seed: Annotated[int | None, typer.Option(help="Of --random-weights.")] = None,
    text_encoder: Annotated[
        str | None, typer.Option(help="Hub name or folder. (default: the installed MiniLM)")
    ] = None,
    text_pool: Annotated[str | None, typer.Option(help="mean (default), cls or pooler.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of a text. (default: 128)")] = None,
    text_fields: Annotated[
        str | None,
        typer.Option(help="Joined in order. (default: title,brand,categories,description)"),
    ] = None,
    image_batch: Annotated[int | None, typer.Option(help="Images. (default: 32)")] = None,
    text_batch: Annotated[int | None, typer.Option(help="Texts. (default: 64)")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Decoding processes. (default: one a CPU)")
    ] = None,
    prune_cache: Annotated[
        bool, typer.Option("--prune-cache", help="Drop cached features that no item has now.")
    ] = False,
) -> None:
    """Encode the items' images and texts; only what is new or has changed.

    DATA/features/cache keeps every feature by its content and encoder: 4
    bytes a number (VGG-16: 2 KiB an image, MiniLM: 1.5 KiB a text). It only
    grows; --prune-cache leaves what these items and encoders use.
    """
    flags = {
        "image_encoder": image_encoder,
        "image_layer": image_layer,
        "image_weights": image_weights,
        "image_size": image_size,
        "random_weights": random_weights,
        "random_seed": random_seed,
        "text_encoder": text_encoder,
        "text_pool": text_pool,
        "max_tokens": max_tokens,
        "text_fields": tuple(text_fields.split(",")) if text_fields else None,
        "image_batch": image_batch,
        "text_batch": text_batch,
        "workers": workers,
    }
    given = {k: v for k, v in flags.items() if v is not None}
    _run(data, _settings(config, given), prune_cache)


def _settings(path: Path | None, flags: dict[str, Any]) -> FeaturesConfig:
    base = FeaturesConfig() if path is None else _read_recipe(path)
    # A flag for one kind of weights replaces what the recipe says of the other.
    if "image_weights" in flags:
        flags.setdefault("random_weights", False)
    if flags.get("random_weights"):
        flags.setdefault("image_weights", None)
    return replace(base, **flags)


def _read_recipe(path: Path) -> FeaturesConfig:
    try:
        recipe = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise FeaturesError(f"{path} not found; expected a recipe in TOML") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FeaturesError(f"{path} is unreadable ({error}); expected a recipe in TOML") from None
    table = recipe.get("features", {})
    if not isinstance(table, dict):
        raise FeaturesError(f"{path}: features is {table!r}; expected a table [features]")
    return features_config(table, f"{path} [features]")


def _run(data: Path, config: FeaturesConfig, prune: bool) -> None:
    from mmsr.training.dataset import open_dataset

    dataset = open_dataset(data)
    # After the data are known to be there: this imports torch, which takes seconds.
    from mmsr.training.allocator import keep_freed_memory
    from mmsr.training.features.extract import extract_features

    keep_freed_memory()
    report = extract_features(dataset, config, show_progress=True, prune=prune)
    _show(report, data)
    if prune:
        _show_pruned(report)


def _show(report: "FeaturesReport", data: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("")
    for name in ("items", "present", "encoded", "cached", "broken", "items/s", "seconds"):
        table.add_column(name, justify="right")
    for name, modality in (("image", report.image), ("text", report.text)):
        table.add_row(name, *_cells(modality))
    console = Console()
    console.print(table)
    if broken := len(report.image.rejected):
        noun = "image" if broken == 1 else "images"
        where = data / "features" / "rejected.jsonl"
        console.print(f"{broken:,} {noun} could not be used: see {where}", soft_wrap=True)


def _show_pruned(report: "FeaturesReport") -> None:
    if report.freed_bytes is None:
        typer.echo("cache: kept whole, since not one image could be read")
    else:
        typer.echo(f"cache: {report.freed_bytes / 2**20:,.1f} MiB removed")


def _cells(modality: "ModalityReport") -> list[str]:
    counts = (modality.items, modality.present, modality.encoded, modality.cached)
    rate = f"{modality.rate:.1f}" if modality.encoded else "-"
    cells = [f"{count:,}" for count in (*counts, len(modality.rejected))]
    return [*cells, rate, f"{modality.seconds:.1f}"]
