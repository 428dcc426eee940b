"""The report in Markdown: facts of the run and its tables in, text out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.rivals.entrants import ENTRANTS
from benchmarks.rivals.runner_alone import AloneLine
from benchmarks.rivals.tables import alone_sheet, markdown, servers_sheet
from benchmarks.rivals.tally import Line

QUIET = 0.05  # of the cores, taken by others


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was found with one bundle."""

    title: str
    bundle_id: str
    lines: Sequence[Line]
    alone: Sequence[AloneLine]
    goal: str
    left_out: Mapping[str, str]  # name -> why
    uncounted: int  # probes that missed while others had the machine


def to_markdown(facts: Mapping[str, Any], results: Sequence[Result]) -> str:
    """Return the whole report."""
    parts = ["# mmsr-serve beside other ways to serve the same model\n", _facts(facts, results)]
    for result in results:
        parts += [
            markdown(servers_sheet(result.title, result.lines)),
            *(f"Left out: {name} ({why}).\n" for name, why in result.left_out.items()),
            f"{result.goal}\n",
            markdown(alone_sheet(f"Runners alone, {result.title}", result.alone)),
        ]
    return "\n".join([*parts, _reading(), _entrants()])


def _facts(facts: Mapping[str, Any], results: Sequence[Result]) -> str:
    machine, settings = facts["environment"], facts["settings"]
    shares = [line.others_share for result in results for line in result.lines]
    least, most = min(s.least for s in shares), max(s.greatest for s in shares)
    load = facts["load_average"]
    how = "quiet" if most <= QUIET else "shared"
    versions = {**machine["versions"], **facts["rivals"]}
    uncounted = sum(result.uncounted for result in results)
    bundles = ", ".join(f"{result.bundle_id} ({result.title})" for result in results)
    return "\n".join(
        [
            f"- when: {machine['time']}, commit {facts['commit']}",
            f"- command: `{machine['command']}`",
            f"- machine: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_gib']} GiB; {how}: others took {least:.0%} to {most:.0%} of all "
            f"cores' time in a block; load average {load['before'][0]:.1f} before, "
            f"{load['after'][0]:.1f} after",
            f"- versions: Python {machine['python']}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items()),
            f"- bundles: {bundles}; an untrained SASRec (ids and positions): what is recommended "
            "means nothing, the time does not depend on the weights",
            f"- {settings['seconds']:g} s a block after 0.5 s of warm-up, {settings['rounds']} "
            f"round(s) there and back, {settings['passes']} search(es) of the highest rate; "
            f"{uncounted} probe(s) missed while others had over a quarter of the machine, and were "
            "repeated",
            "",
        ]
    )


def _reading() -> str:
    return "\n".join(
        [
            "### How to read this\n",
            "Median (least–greatest) over the passes. A ratio above 1 is in our favour and is the "
            "median of the passes' own ratios; passes lie beside each other in time, so what "
            "disturbed the machine disturbed both. CPU is of all processes of a server. Latency "
            "counts from the intended send time; answers are bytes that the client does not "
            "decode. Before anything was timed, each server answered 50 histories as ONNX "
            "Runtime does (scores within 1e-4 rank by rank, equal scores in any order), and the "
            "bundle's gate had compared that with PyTorch.",
            "",
            "Equal for RePlay's compiled SASRec: items, width, blocks, heads, history length, "
            "threads, histories, K. Not equal: the weights, random on both sides, as its class "
            "cannot load ours; and it reads every history as 50 items. It has no server.",
            "",
        ]
    )


def _entrants() -> str:
    lines = [f"- **{entrant.name}**: {entrant.about}" for entrant in ENTRANTS]
    return "\n".join(["### Settings\n", *lines, ""])
