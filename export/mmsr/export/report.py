"""What both gates measured, as lines of a table for people. Knows no torch and no terminal."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsr.export.gate import GateReport
    from mmsr.export.held_out import Comparison
    from mmsr.export.parity import Agreement, Difference
    from mmsr.export.quality import QualityReport
    from mmsr.export.stored import StoredReport

Row = tuple[str, str, str]  # what, compared with what, how it came out


def parity_rows(report: "GateReport") -> Iterator[Row]:
    """Yield the rows of the parity gate."""
    yield from _sequence_rows(report)
    yield from _explain_rows(report)
    yield from _item_rows(report)
    yield from file_rows(report.stored)
    for what in ("image", "text"):
        items, cosine, error, measured_in = (
            getattr(report, f"{what}_{name}")
            for name in ("items", "min_cosine", "max_abs_error", "measured_in")
        )
        if cosine is not None:
            before = f", as measured in {measured_in}" if measured_in else ""
            measured = f"cosine {cosine:.7f}, error {error:.1e}"
            yield f"{what} encoder", f"{items} items{before}", measured
    if report.text_effect is not None:
        yield "", "NDCG@10 with texts in int8", _ndcg(report.text_effect)


def _sequence_rows(report: "GateReport") -> Iterator[Row]:
    found = report.sequence
    filtered = found.filtered
    widths = list(report.buckets)
    yield (
        "sequence",
        f"{found.users} histories, best {found.k}",
        f"overlap {found.overlap:.4f}, error {found.max_error:.1e}",
    )
    yield "", "with filters", f"overlap {filtered.overlap:.4f}, error {filtered.max_error:.1e}"
    yield "", "alone / in a batch", f"error {found.alone_error:.1e}"
    yield "", "padded / not", f"error {found.padding_error:.1e}"
    if widths:
        yield "", f"padded to {widths[0]} ... {widths[-1]}", _worst([*report.buckets.values()])
    users = report.held_out.users
    yield "", f"NDCG@10 of {users} users", _ndcg(report.held_out)


def _explain_rows(report: "GateReport") -> Iterator[Row]:
    if report.explain is None:
        return
    found = [*report.explain.left_out.values()]
    score = max(one.score_error for one in found)
    attention = max(one.attention_error for one in found)
    compared = f"{report.explain.users} histories, {len(found) - 1} sources out one by one"
    yield "explain", compared, f"error {score:.1e}, attention {attention:.1e}"


def _worst(found: list["Agreement"]) -> str:
    overlap = min(one.overlap for one in found)
    error = max(one.max_error for one in found)
    return f"overlap {overlap:.4f}, error {error:.1e}"


def _item_rows(report: "GateReport") -> Iterator[Row]:
    yield "item", f"{report.item_items} items", f"error {_error(report.item):.1e}"
    if report.made_up:
        yield "", "made-up items", f"error {_error(report.made_up):.1e}"
    for number, (subset, found) in enumerate(report.subsets.items()):
        what = "" if number else "item, sequence"
        ranking = found.sequence
        yield (
            what,
            subset,
            f"rows {_error(found.item):.1e}; overlap {ranking.overlap:.4f}, "
            f"error {ranking.max_error:.1e}",
        )


def _error(found: Mapping[str, "Difference"]) -> float:
    return max(one.max_error for one in found.values())


def file_rows(stored: "StoredReport") -> Iterator[Row]:
    """Yield the rows of what a bundle's files hold."""
    worst = max((found.max_error for found in stored.tables.values()), default=0.0)
    yield "tables", f"all {stored.table_rows} rows", f"error {worst:.1e}"
    yield "catalogue", f"all {stored.items} ids", f"{stored.wrong_items} differ"
    count, graphs = sum(stored.initializers.values()), len(stored.initializers)
    wrong = f"{len(stored.wrong_graphs)} graphs differ"
    yield "weights", f"{count} tensors, {graphs} graphs", wrong
    trained = sum(number for number in stored.trained.values() if number is not None)
    differ = f"{len(stored.wrong_weights)} graphs differ"
    yield "", f"{trained} of them, the checkpoint's", differ
    for graph, check in stored.encoder_weights.items():
        compared = f"{check.exact + check.fused} of {graph}, their own"
        differ = "1 or more differ" if check.wrong else "0 differ"
        yield "", compared, f"{differ}; {check.other} not compared" if check.other else differ


def quality_rows(report: "QualityReport") -> Iterator[Row]:
    """Yield the rows of the quality gate."""
    if report.popularity is not None:
        yield "quality", f"popularity, {report.popularity.users} users", _ndcg(report.popularity)
    if report.live is None:
        yield "", "live bundle", "there is none yet"
    elif report.live.ndcg is None:
        yield "", f"live {report.live.bundle_id}", f"not compared: {report.live.why}"
    else:
        before = report.live.instead
        name = f"live before {before}" if before else f"live {report.live.bundle_id}"
        yield "", name, _ndcg(report.live.ndcg)


def _ndcg(found: "Comparison") -> str:
    return f"{found.ndcg:.4f} / {found.reference:.4f} ({found.low:+.4f} to {found.high:+.4f})"


def precision_line(record: Mapping[str, Any]) -> str:
    """Return in one line what the sequence graph is written in, and why."""
    refused = "".join(f"; {name} refused: {why}" for name, why in record["refused"].items())
    return f"sequence graph in {record['sequence']}: {record['why']}{refused}"
