"""`mmsr-bench catalogue` against a real server whose catalogue lives."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import grpc
import pytest
from rich.console import Console
from support.answering_server import Behaviour, serve
from support.serving import PATIENCE_S, Served, serving
from support.tiny_bundle import Shop
from support.tiny_live import publish_live

from mmsr.engine.bench.catalogue_bench import (
    CatalogueBench,
    measure_catalogue,
    not_put_back,
    open_session,
)
from mmsr.engine.bench.catalogue_tables import print_catalogue, restored_line
from mmsr.engine.bench.plan import RunPlan, Window
from mmsr.engine.bench.present import INTERRUPTED_EXIT_CODE
from mmsr.engine.bench.server_bench import Subject, open_load
from mmsr.engine.bench.shop import GrpcShop, item_maker
from mmsr.engine.bench.wire import connect
from mmsr.engine.bench.writes import KINDS, NEW
from mmsr.v1 import catalogue_pb2 as pb
from mmsr.v1.catalogue_pb2_grpc import CatalogueStub

BENCH = Path(sys.executable).parent / "mmsr-bench"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish_live(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def served(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("store") / "catalogue.db"
    with serving(shop.root, "--catalogue", str(path), "--threads", "1") as found:
        yield found


def bench_of(shop: Shop, target: str, content: str = "features", rounds: int = 1) -> CatalogueBench:
    window = Window(warm_up_s=0.3, duration_s=2.0 / rounds, deadline_ms=30_000)
    return CatalogueBench(
        subject=Subject(target=target, repository=shop.root, label="stable", k=3),
        plan=RunPlan(rate_per_s=40, window=window),
        writes_per_s=20.0,
        content=content,
        probe_ms=10.0,
        rounds=rounds,
        ceilings=False,
    )


@pytest.mark.parametrize(
    ("content", "windows"), [("features", ["A", "B"]), ("text", ["A", "B", "B", "A"])]
)
def test_every_kind_of_write_is_shown_and_the_catalogue_is_as_it_was(
    shop: Shop, served: Served, content: str, windows: list[str]
) -> None:
    report = measure_catalogue(bench_of(shop, served.target, content, len(windows) // 2))
    found = report.findings
    assert found["windows"] == windows
    assert len(report.runs) == len(windows)
    *kinds, whole = found["kinds"]
    assert [kind["kind"] for kind in kinds] == list(KINDS)
    assert whole["writes"] > 20
    assert (whole["refused"], whole["failed"], whole["not_shown"], found["stale"]) == (0, 0, 0, 0)
    assert whole["shown"]["ms"]["p50"] > whole["acknowledged"]["ms"]["p50"] > 0
    assert found["gap_ms"]["p50"] > 5
    encoded = kinds[0]["encode_ms"]
    assert encoded > 0 if content == "text" else encoded is None
    assert found["unanswered"] == 0
    assert found["questions"] >= 2 * 200  # in both windows alike
    assert {ratio["metric"] for ratio in found["traffic"]} >= {"p50 ms", "p99 ms"} or report.void
    assert found["counts"]["A"]["requests"] > 40
    assert found["memory_mib"]["most"] > 10
    restored = found["restored"]
    assert restored["same"]
    assert restored["before"]["items"] == shop.sizes.items
    assert restored["left"] == 0
    assert restored["written"] > 5
    out = StringIO()
    print_catalogue(Console(file=out, width=80), report)
    assert "…" not in out.getvalue()
    assert "The catalogue is as it was" in out.getvalue()


def test_what_somebody_else_writes_is_told_from_what_was_made_up(
    shop: Shop, served: Served
) -> None:
    bench = bench_of(shop, served.target)
    load = open_load(bench.subject, 0)
    with grpc.insecure_channel(served.target) as channel:
        catalogue = CatalogueStub(channel)
        with open_session(bench, load, item_maker(load.bundle, "features", 0)) as session:
            upsert = pb.UpsertItemsRequest(items=[pb.Item(item_id="a stranger's")])
            catalogue.UpsertItems(upsert, timeout=PATIENCE_S)
            restored = session.put_back()
        gone = pb.DeleteItemsRequest(item_ids=["a stranger's"])
        catalogue.DeleteItems(gone, timeout=PATIENCE_S)
    assert not restored["same"]
    assert restored["after"]["items"] == restored["before"]["items"] + 1
    assert not_put_back(restored) is None  # none of its own is left
    assert "somebody else may write to it" in restored_line(restored)


@pytest.mark.parametrize(
    ("anchor", "found", "misled"), [("item-1", frozenset({"item-1"}), 0), ("nobody", None, 1)]
)
def test_an_answer_without_the_item_that_is_always_there_says_nothing(
    anchor: str, found: frozenset[str] | None, misled: int
) -> None:
    """A server that answers every question with item-1, whatever it was asked for."""

    async def main() -> None:
        async with serve(Behaviour()) as target, await connect(target) as channel:
            shop = GrpcShop(channel, lambda item_id: pb.Item(item_id=item_id), ["h"], 10.0, anchor)
            assert await shop.there(["made-up"]) == found
            assert (shop.misled, shop.unanswered) == (misled, 0)

    asyncio.run(main())


def test_what_the_server_says_to_a_write_is_a_status() -> None:
    async def main() -> None:
        async with serve(Behaviour()) as target, await connect(target) as channel:
            shop = GrpcShop(channel, lambda item_id: pb.Item(item_id=item_id), ["h"], 10.0)
            unimplemented = grpc.StatusCode.UNIMPLEMENTED.value[0]  # it has no catalogue
            assert (await shop.write(NEW, "x-1")).status == unimplemented
            assert unimplemented in shop.first_details

    asyncio.run(main())


def command(shop: Shop, target: str, *flags: object) -> list[str]:
    common = ("--repository", shop.root, "--no-ceilings", "--deadline-ms", 30_000)
    return [str(part) for part in (BENCH, "catalogue", target, *common, *flags)]


def test_an_interrupted_run_puts_the_catalogue_back(
    shop: Shop, served: Served, tmp_path: Path
) -> None:
    report = tmp_path / "r.json"
    flags = ("--rounds", 9, "--duration-s", 1, "--warm-up-s", 0, "--rate", 20, "--json", report)
    with grpc.insecure_channel(served.target) as channel:
        catalogue = CatalogueStub(channel)

        def tried(item: pb.ItemState) -> bool:
            """Tell it from the item that is written once before anything is measured."""
            return not item.item_id.endswith("-0-0")

        def added() -> list[str]:
            """Return the items that the bundle does not have."""
            page = catalogue.ListItems(pb.ListItemsRequest(page_size=1000), timeout=PATIENCE_S)
            return [item.item_id for item in page.items if not item.trained and tried(item)]

        assert added() == []
        process = subprocess.Popen(
            command(shop, served.target, *flags), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            while not (found := added()):
                assert process.poll() is None, process.communicate()
            assert all(item_id.startswith("mmsr-bench-") for item_id in found)
            process.send_signal(signal.SIGTERM)  # a job in the background ignores SIGINT
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        assert process.returncode == INTERRUPTED_EXIT_CODE, err
        assert added() == []
    assert b"Interrupted: this is what was measured so far" in out
    findings = json.loads(report.read_text())["findings"]
    assert findings["restored"]["same"]


def test_a_server_without_a_catalogue_is_one_line(shop: Shop) -> None:
    with serving(shop.root, "--threads", "1") as plain:
        line = command(shop, plain.target)
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: the server refused ListItems: FAILED_PRECONDITION, ")
    assert "without --catalogue" in done.stderr
    assert len(done.stderr.splitlines()) == 1
