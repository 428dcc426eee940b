"""Every stage on a disk that is full, or only to be read, and on the same disk with room again.

The disk is a tmpfs of its own size; where nobody may mount one, the scenarios are left out by name.
"""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.exporting import Exporting, exporting, retrained
from support.fork_server import Forked, ForkServer, fork_server
from support.serving import PATIENCE_S, start
from support.small_disk import SmallDisk, may_mount, small_disk
from support.small_shop import shop_recipe, write_shop
from support.tally import SEED, Tally, rounds
from support.tiny_bundle import Sizes
from support.tiny_live import publish_live
from support.whole import assert_whole, remains

from mmsr.bundle.repository import Repository
from mmsr.engine.client import RecommenderClient
from mmsr.engine.client_catalogue import CatalogueClient, Item
from mmsr.engine.errors import Unavailable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not may_mount(), reason="mounting a small disk is not allowed here"),
]
SIZES = rounds(1, 6)  # of the disk, from nearly nothing to nearly enough
ROOM = 1 << 28  # bytes
FULL = "(?i)no space left"
READ_ONLY = "Read-only file system"
DEADLINE_MS = 1e3 * PATIENCE_S


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A command that writes below `output`."""

    output: Path
    start: Callable[[], Forked]
    check: Callable[[], None]  # what must hold when it is done
    fill: Callable[[], None] = lambda: None  # what lies there before


@pytest.fixture(scope="module")
def trains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("outputs")) as server:
        yield server


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporting]:
    with exporting(tmp_path_factory.mktemp("exporting")) as shop:
        yield shop


@pytest.fixture(params=["prepare", "features", "fit", "export"])
def stage(request: pytest.FixtureRequest, trains: ForkServer, tmp_path: Path) -> Stage:
    if request.param == "export":
        return exports(request.getfixturevalue("shop"), tmp_path)
    return {"prepare": prepares, "features": makes_features, "fit": fits}[request.param](
        trains, tmp_path
    )


def prepares(server: ForkServer, root: Path) -> Stage:
    out = root / "disk" / "data"
    words = ("prepare", "toy", out, "--items", "200", "--users", "300", "--seed", "0")

    def check() -> None:
        assert (out / "data.json").is_file()

    return Stage(output=root / "disk", start=lambda: server.start(*words), check=check)


def makes_features(server: ForkServer, root: Path) -> Stage:
    recipe = shop_recipe(root)
    data = write_shop(root / "data")

    def check() -> None:
        assert (data / "features" / "features.json").is_file()

    words = ("features", data, "--config", recipe)
    return Stage(output=data / "features", start=lambda: server.start(*words), check=check)


def fits(server: ForkServer, root: Path) -> Stage:
    from support.small_features import write_features

    recipe = shop_recipe(root)
    data = write_features(write_shop(root / "data"), "image", "text")
    out = root / "disk" / "run"
    words = ("fit", recipe, "--data", data, "--resume", "--out", out)

    def check() -> None:
        assert len((out / "log.csv").read_text().splitlines()) == 1 + 3

    return Stage(output=root / "disk", start=lambda: server.start(*words), check=check)


def exports(shop: Exporting, root: Path) -> Stage:
    run = retrained(shop.run, root / "run", seed=1, scale=1e-6)
    repository = Repository(root / "disk" / "repository")

    def check() -> None:
        assert_whole(repository)
        assert remains(repository) == []
        assert repository.resolve("stable").is_dir()

    def begin() -> Forked:
        return shop.start(run, repository, "--accept-drop")

    def fill() -> None:
        shutil.copytree(shop.repository.root, repository.root)

    return Stage(output=root / "disk", start=begin, check=check, fill=fill)


def complaint(process: Forked, reason: str) -> str | None:
    """Return what is wrong with how the process ended, if anything is."""
    code, said = process.code(), process.output.read_text()
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code == 1 and len(errors) == 1 and re.search(reason, errors[0]) and "Traceback" not in said:
        return None
    return f"code {code}: {said[-1500:]}"


def sizes(stage: Stage) -> tuple[int, int]:
    """Run the stage on a disk with room; return the bytes that were there, and that it added."""
    with small_disk(stage.output, ROOM) as disk:
        stage.fill()
        before = disk.used()
        process = stage.start()
        assert process.code() == 0, process.output.read_text()
        stage.check()
        return before, disk.used() - before


def goes_on(stage: Stage, disk: SmallDisk, tally: Tally, problem: str | None, what: str) -> None:
    """Give the disk room and run the stage again."""
    disk.read_only(False)
    disk.resize(ROOM)
    if problem is not None:
        tally.lose(f"{what}: {problem}")
        return
    process = stage.start()
    if process.code() != 0:
        tally.lose(f"{what}: with room: {process.output.read_text()[-1500:]}")
        return
    stage.check()
    tally.survived("one line says so, code 1; with room the same command ends well")


def test_a_full_disk(stage: Stage, tally: Tally) -> None:
    """A full disk under `mmsr-train prepare`, `features`, `fit` and `mmsr-export`."""
    before, added = sizes(stage)
    choose = random.Random(SEED)
    for n in range(SIZES):
        part = 0.95 * (n + choose.random()) / SIZES
        with small_disk(stage.output, ROOM) as disk:
            stage.fill()
            disk.resize(before + int(part * added))
            process = stage.start()
            problem = complaint(process, FULL)
            goes_on(stage, disk, tally, problem, f"{part:.2f} of {added} bytes")
    tally.check(at_least=SIZES)


def test_a_disk_that_is_only_to_be_read(stage: Stage, tally: Tally) -> None:
    """A read-only disk under `mmsr-train prepare`, `features`, `fit` and `mmsr-export`."""
    with small_disk(stage.output, ROOM) as disk:
        stage.fill()
        disk.read_only(True)
        problem = complaint(stage.start(), READ_ONLY)
        goes_on(stage, disk, tally, problem, "read-only")
    tally.check()


def test_a_full_disk_under_the_catalogue_stops_writes_alone(tmp_path: Path, tally: Tally) -> None:
    """A full disk, and a read-only one, under the catalogue of `mmsr-serve`."""
    shop = publish_live(tmp_path / "repository", Sizes(items=60, probes=8, spare=400))
    with small_disk(tmp_path / "disk", 300_000) as disk:
        served = start(shop.root, "--catalogue", str(disk.folder / "catalogue.db"))
        try:
            with (
                RecommenderClient(served.target) as client,
                CatalogueClient(served.target) as catalogue,
            ):
                written = 0
                for _ in range(rounds(2, 10)):
                    written = write_until_refused(catalogue, written)
                    assert client.recommend(["item-1"], k=3, deadline_ms=DEADLINE_MS).items
                    disk.resize(300_000 + 40_000 * (tally.tried + 1))
                    survive(catalogue, written, tally)
            assert served.stop() == 0, served.log
            assert "Traceback" not in served.log
        finally:
            served.process.kill()
            served.end()
    tally.check()


def item_of(number: int) -> Item:
    return Item(
        item_id=f"new-{number % 100}",
        title=f"written {number}",
        description="long " * 200,
        image_features=(1.0, 2.0, float(number)),
    )


def write_until_refused(catalogue: CatalogueClient, written: int) -> int:
    """Write as long as it is acknowledged; return how many were."""
    while True:
        try:
            catalogue.upsert([item_of(written)], deadline_ms=DEADLINE_MS)
        except Unavailable as error:
            if "cannot be written: database or disk is full" not in str(error):
                raise
            return written
        written += 1


def survive(catalogue: CatalogueClient, written: int, tally: Tally) -> None:
    """Everything acknowledged is there, and the next write is kept, now that there is room."""
    catalogue.upsert([item_of(written)], deadline_ms=DEADLINE_MS)
    numbers = range(max(0, written - 99), written + 1)
    found = catalogue.get([item_of(n).item_id for n in numbers]).items
    titles = {state.item_id: state.title for state in found}
    wrong = [n for n in numbers if titles.get(item_of(n).item_id) != item_of(n).title]
    if wrong:
        tally.lose(f"writes {wrong} of {written} are not there")
    else:
        tally.survived("writes are refused with the reason, requests answered; then it goes on")
