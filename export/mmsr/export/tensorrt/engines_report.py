"""`mmsr-repo engines` behind its options: progress while it builds, a table when it has built."""

from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mmsr.bundle.repository import Repository
from mmsr.engine.runners.choose import open_engine
from mmsr.export.tensorrt.engines import (
    NOT_PROVEN,
    EngineChoice,
    EngineEntry,
    Precision,
    build_engines,
)
from mmsr.export.tensorrt.flavour import find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets

FlavourName = Literal["tensorrt", "tensorrt-rtx"]


def build_and_print(
    repository: Repository,
    bundle_id: str,
    how: tuple[FlavourName | None, Precision],
    limits: tuple[list[str] | None, list[int] | None],
) -> None:
    """Build and say what was built; `TensorRTError` is one line about what is skipped and why."""
    gpu = find_gpu()
    choice = _choice(how, limits)
    with Console(stderr=True).status("building …") as status:

        def tell(graph: str, phase: str, done: int, steps: int) -> None:
            status.update(f"{graph}: {phase} {done}/{steps}")

        folder, entries = build_engines(repository, bundle_id, choice, tell)
    console = Console()
    columns = ("graph", "precision", "size", "profiles", "built in", "compared")
    table = Table(*columns, box=SIMPLE_HEAD)
    for name, entry in entries.items():
        size = f"{entry.bytes / 2**20:.1f} MiB"
        built_in = f"{entry.seconds:.1f} s"
        profiles = str(len(entry.profiles))
        table.add_row(name, entry.precision, size, profiles, built_in, said_of_parity(entry))
    console.print(table)
    where = "no GPU" if gpu is None else f"{gpu.name} ({gpu.sm})"
    console.print(
        f"{choice.flavour.name} {choice.flavour.version}, {where}: {folder}",
        highlight=False,
        soft_wrap=True,
    )
    if choice.open_engine is None:
        console.print(NOT_PROVEN, highlight=False, soft_wrap=True)


def said_of_parity(entry: EngineEntry) -> str:
    """Return what the comparison of an engine measured, in a few words."""
    found = entry.parity
    if found is None:
        return "not run"
    if "overlap" in found:
        return f"overlap {found['overlap']:.4f}, {found['users']} users"
    return f"cosine {found['min_cosine']:.6f}, {found['samples']} samples"


def _choice(
    how: tuple[FlavourName | None, Precision], limits: tuple[list[str] | None, list[int] | None]
) -> EngineChoice:
    (name, precision), (graphs, batches) = how, limits
    gpu = find_gpu()
    return EngineChoice(
        flavour=find_flavour(name, gpu),
        gpu=gpu,
        precision=precision,
        buckets=Buckets(sequence=tuple(sorted(set(batches)))) if batches else Buckets(),
        graphs=tuple(graphs) if graphs else None,
        open_engine=None if gpu is None else open_engine,
    )
