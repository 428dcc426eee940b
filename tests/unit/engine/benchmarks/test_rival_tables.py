"""What blocks of load become in the rivals' table: ratios, goals, and who is faster."""

import io

import pytest
from rich.console import Console

from benchmarks.rivals.load import Block, Plan
from benchmarks.rivals.tables import goal_sentence, markdown, rich_table, servers_sheet
from benchmarks.rivals.tally import Line, Measured, tally
from benchmarks.rivals.verdicts import found, holds, ratio, spread


def block(per_s: float, ms: float, cpu_ms: float = 1.0, failed: int = 0) -> Block:
    """Return a block of one second in which every answer took as long."""
    answers = int(per_s)
    return Block(
        plan=Plan(concurrency=1, duration_s=1.0),
        latency_s=[ms / 1e3] * answers,
        lag_s=[0.0] * (answers + failed),
        done_in_time=answers,
        failed=failed,
        first_failure="full" if failed else "",
        all_answers=answers,
        server_cpu_s=answers * cpu_ms / 1e3,
    )


def measured(name: str, per_s: float, ms: float, rates: tuple[float, ...] = ()) -> Measured:
    return Measured(
        name=name,
        closed={1: [block(per_s, ms)] * 2, 64: [block(2 * per_s, 10 * ms)] * 2},
        rates_per_s=rates,
    )


def lines() -> list[Line]:
    return tally(
        [
            measured("ours", 200, 2.0, (900.0, 1000.0)),
            measured("slow", 100, 4.0, (300.0, 250.0)),
            measured("quick", 400, 1.0, (450.0, 400.0)),
        ]
    )


def test_a_ratio_above_one_is_ours_whichever_way_round_the_measure_is() -> None:
    _, slow, _ = lines()
    assert slow.ratios["p50 at 1 at once"].median == pytest.approx(2)
    assert slow.ratios["answers/s at 1 at once"].median == pytest.approx(2)
    assert slow.ratios["rate at p99 <= 50 ms"].least == pytest.approx(3)
    assert slow.ratios["rate at p99 <= 50 ms"].greatest == pytest.approx(4)
    assert slow.faster_in == []


def test_the_table_says_where_a_rival_is_faster() -> None:
    ours, _, quick = lines()
    assert ours.ratios == {}
    assert quick.faster_in == [
        "p50 at 1 at once",
        "answers/s at 1 at once",
        "answers/s at 64 at once",
    ]
    sheet = servers_sheet("12 items", lines())
    assert [row[-1] for row in sheet.rows] == ["–", "nothing", ", ".join(quick.faster_in)]


def test_the_goal_is_measured_against_the_best_rival() -> None:
    sentence = goal_sentence(lines(), ["slow", "quick"])
    assert "(quick) 425 (400–450)/s" in sentence
    assert "ratio 2.25 (2.00–2.50)" in sentence
    assert sentence.endswith("is reached.")


def test_a_missed_goal_is_called_missed() -> None:
    few = tally([measured("ours", 200, 2.0, (500.0,)), measured("rival", 100, 4.0, (400.0,))])
    assert goal_sentence(few, ["rival"]).endswith("is missed.")


def test_a_search_that_held_nothing_gives_no_ratio() -> None:
    none = tally([measured("ours", 200, 2.0, (500.0,)), measured("rival", 100, 4.0, (0.0,))])
    assert "rate at p99 <= 50 ms" not in none[1].ratios
    assert "no ratio" in goal_sentence(none, ["rival"])


def test_a_failed_request_is_slower_than_every_answer() -> None:
    most = found(block(2000, 3.0, failed=10))
    assert most.p99_ms == pytest.approx(3.0)
    many = found(block(2000, 3.0, failed=100))
    assert many.p99_ms is None
    assert many.p50_ms == pytest.approx(3.0)


def test_a_rate_is_held_if_at_most_one_in_a_hundred_is_late_or_lost() -> None:
    assert holds(block(99, 49.0, failed=1))
    assert not holds(block(98, 49.0, failed=2))
    assert not holds(block(100, 51.0))
    assert not holds(block(0, 1.0))


def test_cpu_time_is_of_an_answer() -> None:
    [line] = tally([Measured(name="ours", closed={1: [block(100, 1.0, cpu_ms=0.25)]})])
    assert line.server_cpu_ms.median == pytest.approx(0.25)


def test_a_spread_is_written_between_its_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0–3.0)"
    assert ratio([2.0, 9.0], [1.0, 3.0]).text(2) == "2.50 (2.00–3.00)"


def test_terminal_and_markdown_show_the_same_cells() -> None:
    sheet = servers_sheet("12 items", lines())
    text = markdown(sheet).splitlines()
    assert text[0] == "### 12 items"
    assert len(text) == 4 + len(sheet.rows)
    out = io.StringIO()
    Console(file=out, width=400).print(rich_table(sheet))
    for row in sheet.rows:
        assert all(cell in out.getvalue() for cell in row)
