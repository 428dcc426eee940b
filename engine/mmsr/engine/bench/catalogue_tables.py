"""Shows what writes to a catalogue took, and what they cost the others. Decides nothing."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from mmsr.engine.bench.compare import Ratio
from mmsr.engine.bench.compare_tables import HEADINGS, row
from mmsr.engine.bench.report import ServerReport
from mmsr.engine.bench.tables import (
    NOT_ENOUGH,
    bounds,
    number,
    print_environment,
    print_lines,
    print_report_runs,
    short,
    table,
)

COUNTS = ("writes", "refused", "failed", "not shown")
TIMES = ("p50 ms", "95 %", "p90 ms", "95 %", "p99 ms", "most ms")
TITLES = {
    "acknowledged": "From sending a write to its acknowledgement",
    "shown": "From sending a write to the first answer that shows it",
}
TRAFFIC = "Recommendations in windows without (A) and with writes (B)"


def print_catalogue(console: Console, report: ServerReport) -> None:
    """Print the writes by kind, the traffic beside them, and the state of the catalogue."""
    found = report.findings
    print_environment(console, report.environment)
    if found:
        print_lines(console, [setting(found)])
        counts = [[kind["kind"], *count_cells(kind)] for kind in found["kinds"]]
        console.print(table("Writes, by what was written", ("", *COUNTS), counts))
        for what, title in TITLES.items():
            rows = [[kind["kind"], *time_cells(kind[what])] for kind in found["kinds"]]
            console.print(table(title, ("", *TIMES), rows))
        console.print(table(TRAFFIC, HEADINGS, traffic_rows(found)))
        print_lines(console, catalogue_lines(found))
    print_report_runs(console, report)


def count_cells(kind: dict[str, Any]) -> list[str]:
    """Return how many writes there were, and what became of them."""
    return [number(kind[name.replace(" ", "_")], 0) for name in COUNTS]


def time_cells(timed: dict[str, Any]) -> list[str]:
    """Return the times of one kind of write."""
    ms, intervals = timed["ms"], timed["intervals"]
    return [
        short(ms["p50"]),
        bounds(intervals["p50"]),
        short(ms["p90"]),
        bounds(intervals["p90"]),
        short(ms["p99"]),
        short(timed["most_ms"]),
    ]


def traffic_rows(found: dict[str, Any]) -> list[list[str]]:
    """Return the numbers of the requests, without and with writes."""
    return [row(Ratio(**ratio)) for ratio in found["traffic"]]


def setting(found: dict[str, Any]) -> str:
    """Return what was written, how often, and in which windows."""
    return (
        f"{found['writes_per_s']:g} writes/s, new items with {found['content']}; windows "
        f"{' '.join(found['windows'])} (A without writes); made-up items asked for every "
        f"{found['probe_ms']:g} ms in all of them"
    )


def catalogue_lines(found: dict[str, Any]) -> list[str]:
    """Return what must be known to read the tables."""
    gap, lag = found["gap_ms"], found["lag_ms"]
    lines = [
        "Times from the instant at which a write was meant to be sent; a refused, failed or not "
        "shown one counts as slower than every other. Shown: by the first answer that was asked "
        "for after every answer that does not show it.",
        f"Never too short; too long by what lay between two questions, which is in them: p50 "
        f"{short(gap['p50'])} ms, at most {short(gap['most'])} ms. {found['questions']:,} "
        f"questions, {found['unanswered']:,} without an answer.",
        "The server's CPU time a request, below, has the questions and the writes in it.",
        f"Requests that began after an acknowledgement and did not show the write: "
        f"{found['stale']:,}.",
        f"Lag of the writes: p50 {short(lag['p50'])} ms, p99 {short(lag['p99'])} ms. Left out: "
        f"{found['warm_up_writes']:,} writes of the warm-ups.",
        *_encoding(found["kinds"]),
        *(_side(side, found["counts"][side]) for side in ("A", "B")),
        *_failures(found),
        *_memory(found["memory_mib"]),
        restored_line(found["restored"]),
    ]
    return [f"VOID, {found['void']}", *lines] if found["void"] else lines


def _encoding(kinds: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"Of it, the server's encoders: {short(kind['encode_ms'])} ms on average ({kind['kind']})."
        for kind in kinds[:1]
        if kind["encode_ms"] is not None
    ]


def _side(side: str, counts: dict[str, int]) -> str:
    void = f", {counts['void']} VOID and left out of the table" if counts["void"] else ""
    return (
        f"{side}: {counts['requests']:,} requests in {counts['windows']} windows{void}; "
        f"{counts['refused']:,} refused, {counts['failed']:,} failed."
    )


def _failures(found: dict[str, Any]) -> list[str]:
    return [
        f"Writes that ended in {status}: {count:,}, first: "
        f"{found['first_details'].get(status, NOT_ENOUGH)}"
        for status, count in found["statuses"].items()
    ]


def _memory(memory: dict[str, float] | None) -> list[str]:
    if memory is None:
        return []
    return [
        f"Memory of the server: {memory['first']:,.0f} MiB before, {memory['most']:,.0f} at "
        f"most, {memory['last']:,.0f} at the end."
    ]


def restored_line(restored: dict[str, Any]) -> str:
    """Say what the catalogue is like afterwards."""
    before, after = restored["before"], restored["after"]
    if restored["same"]:
        return (
            f"The catalogue is as it was: {before['items']:,} items, of which ListItems says the "
            "same."
        )
    gone = "all made-up items are gone" if restored["left"] == 0 else "see VOID"
    now = "nobody knows how many" if after is None else f"{after['items']:,}"
    return (
        f"The catalogue is not as it was ({gone}): {before['items']:,} items before, {now} now; "
        "somebody else may write to it."
    )
