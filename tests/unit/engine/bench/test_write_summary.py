"""Writes in numbers, what voids them, and what a catalogue scenario refuses to begin."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.load_report import run_of
from support.tiny_bundle import Sizes, publish, seal
from support.tiny_live import publish_live
from support.write_report import WINDOW, lost, many, report_of, restored, written

from mmsr.bundle.manifest import load_manifest
from mmsr.engine.bench.catalogue_bench import (
    CatalogueBench,
    not_put_back,
    traffic_counts,
    traffic_ratios,
)
from mmsr.engine.bench.catalogue_tables import print_catalogue
from mmsr.engine.bench.page.document import load_page
from mmsr.engine.bench.page.write_charts import share_points
from mmsr.engine.bench.plan import BenchError, RunPlan, Traffic, Window
from mmsr.engine.bench.report import write_report
from mmsr.engine.bench.server_bench import Subject
from mmsr.engine.bench.shop import item_maker
from mmsr.engine.bench.wire import CANCELLED, RESOURCE_EXHAUSTED
from mmsr.engine.bench.write_summary import (
    ALL,
    summarise_writes,
    void_writes,
    write_findings,
)
from mmsr.engine.bench.writes import DELETED, NEW, OFF, ON, Written

UNAVAILABLE = 14


def test_percentiles_of_known_times_have_intervals_around_them() -> None:
    [new, whole] = summarise_writes(many(200), WINDOW)
    assert (new.kind, whole.kind, new.writes) == (NEW, ALL, 200)
    assert new.shown.ms == pytest.approx({"p50": 100.0, "p90": 180.0, "p99": None})
    assert new.shown.most_ms == 200.0
    low, high = new.shown.intervals["p50"] or (0.0, 0.0)
    assert high is not None
    assert low < 100.0 < high
    assert new.shown.intervals["p99"] is None
    assert new.acknowledged.ms["p50"] == pytest.approx(20.0)


def test_the_warm_up_of_every_window_is_left_out() -> None:
    done = [written(window=w, intended_s=at) for w in (0, 1) for at in (0.0, 0.99, 1.0, 5.0)]
    found = write_findings(done, WINDOW)
    assert found["kinds"][0]["writes"] == 4
    assert found["warm_up_writes"] == 4


def test_lost_writes_are_counted_apart_and_are_slower_than_all() -> None:
    done = [
        *(written() for _ in range(15)),
        *(lost(status) for status in (RESOURCE_EXHAUSTED, RESOURCE_EXHAUSTED, CANCELLED)),
        *(lost(UNAVAILABLE) for _ in range(2)),
        *(written(shown_ms=None, gap_ms=None) for _ in range(5)),
    ]
    new = summarise_writes(done, WINDOW)[0]
    assert (new.writes, new.refused, new.failed, new.not_shown) == (25, 3, 2, 5)
    assert new.acknowledged.ms["p50"] == pytest.approx(20.0)
    assert new.shown.ms["p50"] == pytest.approx(30.0)
    assert new.acknowledged.most_ms is new.shown.most_ms is None
    worse = summarise_writes([*done, *(lost(UNAVAILABLE) for _ in range(8))], WINDOW)[0]
    assert worse.shown.ms["p50"] is None  # 18 of 33 have no time
    assert write_findings(done, WINDOW)["statuses"] == {
        "CANCELLED": 1,
        "RESOURCE_EXHAUSTED": 2,
        "UNAVAILABLE": 2,
    }


def test_kinds_stand_in_their_order_and_what_was_not_written_is_left_out() -> None:
    done = [written(kind=kind) for kind in (DELETED, OFF, NEW)]
    assert [one.kind for one in summarise_writes(done, WINDOW)] == [NEW, OFF, DELETED, ALL]
    assert ON not in [one.kind for one in summarise_writes(done, WINDOW)]


def test_times_of_the_encoders_are_of_the_writes_that_asked_them() -> None:
    done = [written(encode_ms=40.0), written(encode_ms=60.0), written(kind=OFF)]
    new, off, _ = summarise_writes(done, WINDOW)
    assert (new.encode_ms, off.encode_ms) == (50.0, None)


@pytest.mark.parametrize(
    ("done", "misled", "said"),
    [
        ([written()], 2, "2 answers lacked the item of the bundle"),
        ([lost(UNAVAILABLE)], 0, "no write was shown by an answer"),
        ([written(intended_s=0.5)], 0, "no write was shown by an answer"),
        ([written(lag_ms=3.1)], 0, "median lag 3.10 ms, allowed 3.00 ms"),
        ([*(written() for _ in range(60)), written(lag_ms=9.0)], 0, "p99 lag 9.00 ms"),
    ],
)
def test_writes_that_do_not_count_say_why(done: list[Written], misled: int, said: str) -> None:
    assert said in (void_writes(done, WINDOW, misled) or "")


def test_writes_that_count_are_not_void() -> None:
    assert void_writes([written(lag_ms=2.9)], WINDOW, 0) is None


def test_a_catalogue_that_was_not_put_back_says_what_to_do() -> None:
    assert not_put_back(restored()) is None
    assert not_put_back(restored(same=False)) is None  # somebody else's change is no fault
    left = not_put_back(restored(left=2, same=False))
    assert left is not None
    assert "2 of 7 items are left; delete those whose ids begin with mmsr-bench-1" in left
    unknown = not_put_back(restored(left=None, after=None, error="gone", same=False))
    assert unknown is not None
    assert "(gone): perhaps some of 7" in unknown


def test_windows_with_writes_are_set_beside_those_without() -> None:
    plan = RunPlan(
        rate_per_s=300.0,
        window=Window(warm_up_s=0.5, duration_s=4.0),
        traffic=Traffic(slo_ms=20.0),
    )
    calm, busy = run_of(plan), run_of(plan, stall_s=0.5)
    void = replace(calm, void="late")
    sides = [("A", calm), ("B", busy), ("B", busy), ("A", calm), ("A", void)]
    ratios = {ratio["metric"]: ratio for ratio in traffic_ratios(sides)}
    assert ratios["p99 ms"]["a"] < 10 < ratios["p99 ms"]["b"]
    assert ratios["p99 ms"]["ratio"] > 10
    assert not any(ratio["regression"] for ratio in ratios.values())
    assert traffic_counts(sides, "A") == {
        "windows": 3,
        "void": 1,
        "requests": 3 * calm.requests,
        "refused": 0,
        "failed": 0,
    }
    assert traffic_ratios([("A", calm), ("B", void)]) == []


def test_the_tables_fit_a_terminal_and_the_page_has_the_writes(tmp_path: Path) -> None:
    done = [*many(40), *many(40, kind=OFF), lost(RESOURCE_EXHAUSTED)]
    report = report_of(done)
    out = StringIO()
    print_catalogue(Console(file=out, width=80), report)
    text = out.getvalue()
    assert "…" not in text
    for said in (
        "3 without an answer",
        "Writes that ended in RESOURCE_EXHAUSTED: 1, first: no row",
        "The catalogue is as it was: 5 items",
        "120 at most",
    ):
        assert said in text
    page = load_page(report)
    assert "Writes shown within a time" in page
    assert report.findings["kinds"][0]["shown"]["histogram"] not in page
    write_report(tmp_path / "r.json", report)
    kinds = json.loads((tmp_path / "r.json").read_text())["findings"]["kinds"]
    assert kinds == json.loads(json.dumps([asdict(s) for s in summarise_writes(done, WINDOW)]))


def test_what_voids_the_writes_voids_the_report() -> None:
    report = report_of([written()])
    assert not report.void
    void = report_of([written()], void="no write was shown by an answer")
    assert void.void
    out = StringIO()
    print_catalogue(Console(file=out, width=80), void)
    assert "VOID, no write was shown by an answer" in out.getvalue()


def test_the_line_of_shares_goes_up_in_steps_and_ends_below_one_where_writes_are_lost() -> None:
    done = [written(shown_ms=10.0), written(shown_ms=20.0), lost(UNAVAILABLE), lost(UNAVAILABLE)]
    new = summarise_writes(done, WINDOW)[0]
    points = share_points(new.shown.histogram, new.writes)
    assert [share for _, share in points] == [0.0, 0.25, 0.25, 0.5]
    assert [ms for ms, _ in points] == pytest.approx([10, 10, 20, 20], rel=0.002)


SUBJECT = Subject(target="h:1", repository=Path("r"), label="stable", k=5)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"writes_per_s": 0.0}, "writes-per-s is 0; expected 0.1 to 1000"),
        ({"probe_ms": 0.5}, "probe-ms is 0.5; expected 1 to 1000"),
        ({"rounds": 0}, "rounds is 0; expected 1 to 1000"),
        ({"content": "smell"}, "content is 'smell'; expected one of features, text, image"),
    ],
)
def test_a_catalogue_that_cannot_be_written_so_is_one_line(
    said: dict[str, Any], message: str
) -> None:
    ordinary: dict[str, Any] = {
        "writes_per_s": 5.0,
        "probe_ms": 10.0,
        "rounds": 1,
        "content": "features",
    }
    plan = RunPlan(rate_per_s=10, window=WINDOW)
    with pytest.raises(BenchError, match=message):
        CatalogueBench(subject=SUBJECT, plan=plan, **(ordinary | said))


def without(*graphs: str) -> Callable[[Path], Path]:
    """Return what takes graphs out of a bundle."""

    def make(root: Path) -> Path:
        folder = publish_live(root).folder
        manifest = load_manifest(folder)
        kept = {name: spec for name, spec in manifest.graphs.items() if name not in graphs}
        seal(folder, replace(manifest, graphs=kept))
        return folder

    return make


@pytest.mark.parametrize(
    ("make", "content", "message"),
    [
        (lambda root: publish(root, Sizes()).folder, "features", "has no item.onnx"),
        (without("image_encoder", "text_encoder"), "features", "no image and no text encoder"),
        (without("text_encoder"), "text", "has no text encoder; expected features or image"),
    ],
)
def test_a_bundle_that_takes_no_such_items_is_one_line(
    make: Callable[[Path], Path], content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=message):
        item_maker(make(tmp_path / "r"), content, 0)


def test_new_items_come_with_what_was_asked_for(tmp_path: Path) -> None:
    folder = publish_live(tmp_path / "r").folder
    featured = item_maker(folder, "features", 0)("x-1")
    assert (len(featured.image_features), len(featured.text_features)) == (3, 5)
    assert featured.image_features != item_maker(folder, "features", 0)("x-2").image_features
    titled = item_maker(folder, "text", 0)("x-1")
    assert titled.title
    assert not titled.image_features
    assert item_maker(folder, "image", 0)("x-1").image[:2] == b"\xff\xd8"  # a JPEG
