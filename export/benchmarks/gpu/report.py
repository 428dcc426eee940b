"""What was found, as Markdown. Computes the goals' ratios and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.gpu.sections import SECTIONS

Results = Mapping[str, Mapping[str, Any]]  # section -> outcome, values, cells, notes
ENGINES = ("tensorrt", "tensorrt-rtx")
ONNX = ("onnx", "onnx-graphed")
LATENCY = (*ENGINES, *ONNX, "eager", "graphed", "compiled")


def to_markdown(head: Mapping[str, Any], results: Results) -> str:
    """Return the whole report."""
    lines = [first_line(head, results), "", f"gpu-check, {head['date']}, commit {head['commit']}"]
    lines += ["", f"Command: `{head['command']}`; {head['seconds']:.0f} s", ""]
    if head["device"] == "cuda":
        lines += ["## Goals", "", "| goal | measured |", "|---|---|"]
        lines += [f"| {goal} | {measured} |" for goal, measured in goals(results)] + [""]
    lines += ["## Sections", "", "| section | seconds | outcome |", "|---|--:|---|"]
    for name, found in results.items():
        lines.append(f"| {SECTIONS[name].title} | {found['seconds']:.1f} | {_outcome(found)} |")
    lines += ["", *_latency(results)]
    for name, found in results.items():
        lines += _section(name, found)
    return "\n".join(lines) + "\n"


def first_line(head: Mapping[str, Any], results: Results) -> str:
    """Return what a reader must know before any number."""
    if head["device"] != "cuda":
        return "DRY RUN on a CPU with tiny sizes: no number below says anything about a GPU."
    ran = [SECTIONS[name].title for name in ENGINES if _times(results.get(name, {}))]
    if ran:
        return f"{' and '.join(ran)} has been run on {head['gpu']}."
    seen = "; ".join(
        f"{SECTIONS[name].title}: {_outcome(results[name])}" for name in ENGINES if name in results
    )
    return f"TensorRT has NOT been run on a GPU. {seen}"


def goals(results: Results) -> Iterator[tuple[str, str]]:
    """Yield each goal and what was measured for it, or why it was not."""
    engine, onnx = _fastest(results, ENGINES), _fastest(results, ONNX)
    eager = _fastest(results, ("eager",))
    ours = engine or onnx
    yield "fastest runner: p50 at batch 1 at most 1/3 of PyTorch eager", _ratio(ours, eager)
    yield "TensorRT: p50 at batch 1 at most 1/1.3 of ONNX Runtime's", _ratio(engine, onnx)
    cells = [c for c in results.get("top-k", {}).get("cells", []) if c["batch"] == 1]
    exact = [c for c in cells if c["same_scores"]]
    best = min(exact, key=lambda c: float(c["times_the_floor"]), default=None)
    yield (
        "exact top 20 at batch 1 at most 4 times the bandwidth floor",
        "not measured" if best is None else f"{best['times_the_floor']:.2f} times ({best['way']})",
    )


def _fastest(results: Results, names: tuple[str, ...]) -> tuple[str, float] | None:
    """Return who has the least wall p50 at batch 1 on the smallest catalogue."""
    found = []
    for name in names:
        cells = [c for c in _times(results.get(name, {})) if c["batch"] == 1]
        if cells:
            first = min(cells, key=lambda c: int(c["items"]))
            found.append((SECTIONS[name].title, float(first["wall_p50_ms"])))
    return min(found, key=lambda pair: pair[1], default=None)


def _ratio(one: tuple[str, float] | None, other: tuple[str, float] | None) -> str:
    if one is None or other is None:
        return "not measured"
    return f"1/{other[1] / one[1]:.2f} ({one[0]} {one[1]:.3g} ms, {other[0]} {other[1]:.3g} ms)"


def _times(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in found.get("cells", []) if "wall_p50_ms" in cell]


def _outcome(found: Mapping[str, Any]) -> str:
    said = str(found["outcome"])
    return said.replace("|", "/").replace("\n", " ")


def _latency(results: Results) -> Iterator[str]:
    everybody = {name: _times(results[name]) for name in LATENCY if name in results}
    places = sorted({(c["items"], c["batch"]) for cells in everybody.values() for c in cells})
    if not places:
        return
    yield "## Requests: wall p50 / p99 ms, device p50 ms, requests/s"
    yield ""
    yield "| | items | batch | wall p50 | wall p99 | device p50 | requests/s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for items, batch in places:
        for name, cells in everybody.items():
            for c in cells:
                if (c["items"], c["batch"]) == (items, batch):
                    yield (
                        f"| {SECTIONS[name].title} | {items:,} | {batch} | {c['wall_p50_ms']:.3g} "
                        f"| {c['wall_p99_ms']:.3g} | {_number(c['device_p50_ms'])} "
                        f"| {c['requests_per_s']:,.0f} |"
                    )
    yield ""


def _section(name: str, found: Mapping[str, Any]) -> list[str]:
    lines = [f"## {SECTIONS[name].title}", "", _outcome(found), ""]
    lines += [f"* {key}: {_plain(value)}" for key, value in found["values"].items()]
    lines += [f"* {note}" for note in found["notes"]]
    cells = [c for c in found["cells"] if name not in LATENCY or "gate" in c]
    if cells:
        columns = list(dict.fromkeys(key for cell in cells for key in cell))
        lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(_plain(c.get(k, "")) for k in columns) + " |" for c in cells]
    return [*lines, ""]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(v)}" for key, v in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
