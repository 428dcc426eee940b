"""Reports: well-formed pages that hold the numbers, load nothing and escape every name."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.files import write_json
from mmsr.training.cli import app
from mmsr.training.comparison import (
    COMPARED,
    CONTENT_KNN,
    TRAINED,
    ComparedData,
    Comparison,
    Difference,
    Machine,
    NotRun,
    Result,
    SeedRun,
    save_comparison,
)
from mmsr.training.config import Recipe, recipe_to_dict
from mmsr.training.report.charts import Series, legend, line_chart, nice_step, number, ticks
from mmsr.training.report.comparison_page import comparison_page
from mmsr.training.report.forest import Interval, forest_plot
from mmsr.training.report.html import Html, flat, join, plain, tag
from mmsr.training.report.page import COLOURS, DARK, LIGHT
from mmsr.training.report.run_page import run_page
from mmsr.training.report.runs import best_epoch, read_run

VOID = {"meta", "br", "img", "link", "input"}
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background"}
METRICS = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (5, 10, 20)]
HOSTILE = "<script>alert('&')</script>"


class Page(HTMLParser):
    """Checks that every element is closed in order; collects texts, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def assert_loads_nothing(page: str) -> None:
    parsed = Page(page)
    assert not LOADS & {name for name, _ in parsed.attributes}
    assert not {"script", "link", "iframe", "object", "img", "base"} & set(parsed.tags)
    assert re.search(r"https?:|url\(|@import|//", page) is None
    assert "default-src 'none'" in page
    assert page.startswith("<!doctype html>")
    assert "width=device-width" in page
    assert "prefers-color-scheme: dark" in page


def write_run(folder: Path, **evaluation: Any) -> Path:
    """Write the files of a run of three epochs; return its folder."""
    (folder / "data").mkdir(parents=True)
    data = {"name": "a shop", "users": 6040, "items": 3416, "interactions": 999611}
    write_json(folder / "data" / "data.json", data | {"content_hash": "abc123"})
    prepared = {"prepared": {"items_with_image": 3256}}
    write_json(folder / "data" / "report.json", prepared)
    run = folder / "run"
    spec = {"encoder": "vgg16", "dim": 512, "weights_path": "secret place"}
    info = {
        "recipe": recipe_to_dict(Recipe()),
        "data_folder": str(folder / "data"),
        "data_hash": "abc123",
        "items": 3416,
        "features": {"image": spec, "text": None},
        "content_hashes": {"image": "f00f"},
        "provenance": {"commit": "4bce6c4-dirty", "device": "cpu", "versions": {"torch": "2.14"}},
    }
    write_json(run / "run.json", info)
    header = (
        "epoch,loss,learning_rate,validation.masked.ndcg@10,validation.masked.recall@10,train_s"
    )
    lines = [f"{header},odd_column"]
    lines += ["1,9.5,0.004,0.0812,0.161,31.5,7", "2,8.25,0.004,0.0934,0.185,30.5,7"]
    lines += ["3,8,0.004,0.0934,0.18,32,7"]
    (run / "log.csv").write_text("\n".join(lines) + "\n")
    metrics = {
        f"{part}.{mask}.{name}": round(0.01 * (i + 1) + 0.1 * j + 0.5 * k, 4)
        for j, part in enumerate(("validation", "test", "popularity"))
        for k, mask in enumerate(("masked", "unmasked"))
        for i, name in enumerate(METRICS)
    }
    found = {"checkpoint": "epoch-0002", "users": 6040, "metrics": metrics}
    write_json(run / "evaluation.json", found | evaluation)
    return run


def test_a_run_becomes_a_page_with_its_numbers(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path))
    page = run_page(run)
    assert_loads_nothing(page)
    text = Page(page).text
    assert run.evaluation is not None
    for value in run.evaluation["metrics"].values():
        assert f"{value:.4f}" in text
    for expected in ("a shop", "6,040", "999,611", "3,256", "abc123", "f00f", "4bce6c4-dirty"):
        assert expected in text
    assert "run, epoch 2: 0.0934" in text
    assert "epoch 2 of 3" in text
    assert "vgg16" in text
    assert "secret place" not in page
    assert str(tmp_path) not in page
    for key in recipe_to_dict(Recipe())["fit"]:
        assert key in text


def test_every_column_of_the_log_is_a_curve(tmp_path: Path) -> None:
    text = Page(run_page(read_run(write_run(tmp_path)))).text
    for title in ("Loss", "Validation NDCG@10", "Validation Recall@10", "Learning rate"):
        assert title in text
    assert "Seconds an epoch" in text
    assert "odd_column" in text


def test_a_run_that_has_only_begun_has_a_page_too(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    for name in ("log.csv", "evaluation.json"):
        (run / name).unlink()
    (tmp_path / "data" / "data.json").unlink()
    page = run_page(read_run(run))
    assert_loads_nothing(page)
    assert "No epoch is finished yet" in page
    assert "mmsr-train evaluate" in page


def test_data_that_were_prepared_anew_are_not_taken_for_the_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    write_json(tmp_path / "data" / "data.json", {"name": "other", "content_hash": "else"})
    found = read_run(run)
    assert (found.data, found.prepared) == (None, None)
    assert "other" not in Page(run_page(found)).texts


def test_cold_items_and_missing_modalities_are_tables(tmp_path: Path) -> None:
    ranked = {"recall@10": 0.1234, "ndcg@10": 0.0567, "mrr@10": 0.0321}
    spread = {"mean": -0.0021, "low": -0.0034, "high": -0.0009}
    cold = {
        "users": 77,
        "items": 1210,
        "metrics": {"model": {"masked": ranked, "cold": ranked}},
        "model_above": {"content-kNN": {"masked": spread, "cold": {**spread, "mean": 0.0042}}},
    }
    case = {"modality": "text", "to_whole": spread, "validation": 0.0641}
    missing = {
        "whole": {"validation": 0.0661, "test": 0.0561},
        "cases": [
            {**case, "share": 0.5, "test": 0.0541, "gain_kept": 0.75},
            {**case, "share": 1.0, "test": 0.0477, "gain_kept": None},
        ],
        "against": {"validation": 0.0581, "test": 0.0481},
    }
    final = {"run": "/somewhere/best-run", "checkpoint": "epoch-0007"}
    above = {"ndcg@10": 0.0381, "low": 0.0347, "high": 0.0415}
    found = {"cold": cold, "missing": missing, "from": final, "above_popularity": above}
    run = write_run(tmp_path, **found)
    page = run_page(read_run(run))
    assert_loads_nothing(page)
    text = Page(page).text
    for expected in ("1,210 of them, 77 users", "0.1234", "0.0541", "75%", "0.0481", "50%"):
        assert expected in text
    lost = "-0.0021 [-0.0034, -0.0009]"
    for expected in (f"content-kNN, NDCG@10 [95%]: {lost} among all", "0.0641", lost, "+0.0042 ["):
        assert expected in text
    assert "metrics are those of best-run" in text
    assert "+0.0381, 95% interval +0.0347 to +0.0415" in text
    assert "somewhere" not in page


def test_a_hostile_name_is_text_and_nothing_else(tmp_path: Path) -> None:
    run = write_run(tmp_path, note=HOSTILE)
    write_json(
        tmp_path / "data" / "data.json",
        {"name": HOSTILE, "users": 1, "items": 1, "interactions": 1, "content_hash": "abc123"},
    )
    found = replace(read_run(run), name=HOSTILE)
    page = run_page(found)
    assert_loads_nothing(page)
    assert Page(page).text.count(HOSTILE) >= 3


def seed_run(seed: int, base: float) -> SeedRun:
    log = tuple(
        {"epoch": e, "loss": 9.0 - e, "train_s": 3.0, "validation.masked.ndcg@10": base + e / 1000}
        for e in (1.0, 2.0, 3.0)
    )
    return SeedRun(
        seed=seed,
        folder=f"seed{seed}",
        epochs=3,
        best_epoch=3,
        validation_ndcg=base + 0.003,
        seconds_per_epoch=3.0,
        test_evaluations=1,
        commit="4bce6c4",
        log=log,
        metrics={f"{mask}.{name}": base for mask in ("masked", "unmasked") for name in METRICS},
    )


def result(name: str, base: float, difference: float | None, **recipe: Any) -> Result:
    runs = tuple(seed_run(seed, base) for seed in (0, 1))
    mean = {
        f"{mask}.{metric}": base + i / 10000
        for mask in ("masked", "unmasked")
        for i, metric in enumerate(METRICS)
    }
    found = None
    if difference is not None:
        low, high = difference - 0.0011, difference + 0.0013
        found = {m: Difference(mean=difference, low=low, high=high) for m in COMPARED}
    return Result(
        name=name,
        kind=TRAINED,
        recipe=recipe_to_dict(Recipe()) | recipe,
        parameters=1234567,
        runs=runs,
        mean=mean,
        deviation=dict.fromkeys(mean, 0.0007),
        difference=found,
    )


@pytest.fixture
def comparison() -> Comparison:
    knn = replace(
        result("content-knn", 0.01, -0.041),
        kind=CONTENT_KNN,
        recipe=None,
        parameters=None,
        runs=(),
        deviation=None,
    )
    return Comparison(
        command="mmsr-train compare a.toml b.toml --data D",
        time="2026-11-23T16:00:00+00:00",
        commit="4bce6c4",
        machine=Machine(
            processor="Some CPU",
            cores=2,
            threads=1,
            memory_gib=23.5,
            device="cpu",
            system="Linux",
            python="3.11.7",
        ),
        versions={"torch": "2.14.1"},
        data=ComparedData(
            name="beauty",
            hash="d2f8",
            users=22363,
            users_tested=22000,
            items=12101,
            interactions=198502,
        ),
        seeds=(0, 1, 2),
        against="sasrec",
        interval=0.95,
        results=(
            result("sasrec", 0.0511, None),
            result(HOSTILE, 0.0583, 0.0072, model={"fusion": "gate"}),
            knn,
        ),
        not_run=(NotRun(name="sasrec", seed=2, reason="interrupted"),),
    )


def test_a_comparison_becomes_a_page_with_its_numbers(comparison: Comparison) -> None:
    page = comparison_page(comparison)
    assert_loads_nothing(page)
    text = Page(page).text
    for one in comparison.results:
        assert one.name in text
        for metric in ("masked.recall@10", "masked.ndcg@10", "unmasked.ndcg@10"):
            assert f"{one.mean[metric]:.4f}" in text
    for expected in ("+0.0072", "+0.0061 to +0.0085", "-0.0410", "± 0.0007", "1,234,567"):
        assert expected in text
    for expected in ("interrupted", "22,000 of 22,363", "mmsr-train compare a.toml", "Some CPU"):
        assert expected in text
    assert "model.fusion" in text  # what the recipes differ in


def test_the_best_of_each_column_is_marked_once(comparison: Comparison) -> None:
    page = comparison_page(comparison)
    assert page.count('class="best"') == 2 * 7  # masked and unmasked, seven metrics each
    assert '<span class="best">0.0587</span>' in page


def test_a_comparison_of_nothing_that_ran_is_still_a_page(comparison: Comparison) -> None:
    page = comparison_page(replace(comparison, results=()))
    assert_loads_nothing(page)
    assert "interrupted" in page


def report(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["report", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_takes_a_run_or_a_comparison(tmp_path: Path, comparison: Comparison) -> None:
    run = write_run(tmp_path)
    report(run, "--out", tmp_path / "new" / "run.html")
    assert "Training run" in (tmp_path / "new" / "run.html").read_text(encoding="utf-8")
    save_comparison(tmp_path / "c.json", comparison)
    report(tmp_path / "c.json", "--out", tmp_path / "c.html")
    assert "Comparison on beauty" in (tmp_path / "c.html").read_text(encoding="utf-8")


def test_mistakes_of_the_command_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    with pytest.raises(MmsrError, match=r"expected a name that ends in \.html"):
        report(run, "--out", tmp_path / "run.txt")
    with pytest.raises(MmsrError, match="holds no training run"):
        report(tmp_path, "--out", tmp_path / "run.html")
    with pytest.raises(MmsrError, match="not found; expected a comparison"):
        report(tmp_path / "none.json", "--out", tmp_path / "run.html")
    with pytest.raises(MmsrError, match="is no comparison"):
        report(run / "run.json", "--out", tmp_path / "run.html")
    (run / "log.csv").write_text("epoch,loss\n1,nonsense\n")
    with pytest.raises(MmsrError, match=r"log\.csv is damaged"):
        report(run, "--out", tmp_path / "run.html")
    assert not (tmp_path / "run.html").exists()


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    code = (
        "import sys; sys.modules['torch'] = sys.modules['matplotlib'] = None\n"
        "from mmsr.training.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "report", str(run), "--out", str(tmp_path / "r.html")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_kept_epoch_is_the_first_of_the_best(tmp_path: Path) -> None:
    assert best_epoch(read_run(write_run(tmp_path)).log) == 2
    assert best_epoch(()) is None


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.0812, 0.0934), (-0.004, 0.011), (6.2, 9.5), (3, 100000)]
)
def test_ticks_are_few_round_and_reach_both_ends(low: float, high: float) -> None:
    found = ticks(low, high, 4)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 7
    step = found[1] - found[0]
    assert nice_step(step) == pytest.approx(step)


def test_labels_are_short() -> None:
    assert [number(x) for x in (0, 0.05, 0.00025, 12.5, 2e-5, 3e6)] == [
        "0",
        "0.05",
        "0.00025",
        "12.5",
        "2.0e-5",
        "3.0e6",
    ]


def test_a_chart_leaves_out_what_is_no_number() -> None:
    points = ((1.0, 0.5), (2.0, math.nan), (3.0, math.inf), (4.0, 0.7))
    chart = line_chart("Loss", [Series(name="a", points=points)])
    assert "nan" not in chart
    assert "inf" not in chart
    assert chart.count("<title>") == 2
    assert line_chart("Loss", [Series(name="a", points=((1.0, math.nan),))]) == ""


def test_more_runs_than_colours_are_dashed_and_named_once() -> None:
    series = [Series(name=f"run {i // 2}", points=(), colour=i // 2) for i in range(20)]
    listed = legend(series)
    assert listed.count("<li>") == 10
    assert "dashed-1" in listed
    assert len(LIGHT) == len(DARK) == COLOURS


def test_a_forest_plot_points_to_what_lies_off_its_scale() -> None:
    near = Interval(name="ours", mean=0.007, low=0.005, high=0.009)
    worse = Interval(name="worse", mean=-0.002, low=-0.003, high=-0.001)
    far = Interval(name="popularity", mean=-0.03, low=-0.031, high=-0.029, scales=False)
    plot = forest_plot(("", "", "difference", "interval"), [near, worse, far])
    assert plot.count("<circle") == 2
    assert plot.count("<polygon") == 1
    lines = {name: plot[plot.index(f"<title>{name}") :] for name in ("ours", "worse")}
    assert re.search(r'class="f(\d)"', lines["ours"])[1] == "0"  # type: ignore[index]
    assert re.search(r'class="f(\d)"', lines["worse"])[1] == "1"  # type: ignore[index]


def test_a_baseline_that_lies_near_is_drawn_whole() -> None:
    ours = Interval(name="ours", mean=0.006, low=0.001, high=0.0115)
    near = Interval(name="popularity", mean=-0.0024, low=-0.0081, high=0.003, scales=False)
    plot = forest_plot(("", "", "difference", "interval"), [ours, near])
    assert plot.count("<circle") == 2
    assert "<polygon" not in plot


def test_strings_are_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", Html("<b>x</b>"), class_='"') == (
        '<p class="&quot;">a &lt; b<b>x</b></p>'
    )
    assert join(["&", Html("&amp;")]) == "&amp;&amp;"


def test_values_are_written_for_people() -> None:
    values: list[Any] = [None, True, 12345, 0.001, ["a", 2], "b", {}]
    assert [plain(x) for x in values] == ["–", "yes", "12,345", "0.001", "a, 2", "b", "–"]
    assert flat({"a": {"b": 1}, "c": "d"}) == [("a.b", "1"), ("c", "d")]


def test_json_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps([1, 2]))
    with pytest.raises(MmsrError, match="no JSON object"):
        read_run(tmp_path)
