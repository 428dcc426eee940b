"""Records of everybody -> one line each beside ours. Pure: knows no processes and no terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.rivals.load import Block
from benchmarks.rivals.verdicts import BOUND_MS, Found, Spread, found, ratio, spread

GOAL = 2.0  # ours over the best rival's, at p99 within the bound


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one entrant's blocks say, by pass. Blocks of the same place are of the same pass."""

    name: str
    closed: Mapping[int, Sequence[Block]]  # by concurrency
    rates_per_s: Sequence[float] = ()  # held within the bound, one a search; none: not searched
    at_rate: Block | None = None  # the block of the last search's highest rate


@dataclass(frozen=True, kw_only=True)
class Line:
    """One entrant. A ratio above 1 is in our favour, whichever way round its measure is."""

    name: str
    per_s: dict[int, Spread]
    p50_ms: dict[int, Spread]
    p99_ms: dict[int, Spread]
    server_cpu_ms: Spread
    client_cpu_ms: Spread
    others_share: Spread  # of the machine, taken by others while this one was asked
    failed: int
    rate_per_s: Spread | None
    at_rate: Found | None
    ratios: dict[str, Spread] = field(default_factory=dict)
    faster_in: list[str] = field(default_factory=list)  # than ours, by the median


def tally(measured: Sequence[Measured]) -> list[Line]:
    """Sum everybody up; the first one is ours."""
    return [_line(one, measured[0]) for one in measured]


def best_rival(lines: Sequence[Line], rivals: Sequence[str]) -> Line | None:
    """Return the rival with the highest rate within the bound."""
    searched = [line for line in lines if line.name in rivals and line.rate_per_s is not None]
    return max(searched, key=_rate, default=None)


def _rate(line: Line) -> float:
    return line.rate_per_s.median if line.rate_per_s else 0.0


def _line(one: Measured, ours: Measured) -> Line:
    busiest = one.closed[max(one.closed)]
    blocks = [block for some in one.closed.values() for block in some]
    ratios = {} if one is ours else _ratios(one, ours)
    return Line(
        name=one.name,
        per_s={c: spread([b.per_s for b in some]) for c, some in one.closed.items()},
        p50_ms=_latencies(one, 0.5),
        p99_ms=_latencies(one, 0.99),
        server_cpu_ms=spread([_cpu_ms(block.server_cpu_s, block) for block in busiest]),
        client_cpu_ms=spread([_cpu_ms(block.client_cpu_s, block) for block in busiest]),
        others_share=spread([block.others_share for block in blocks]),
        failed=sum(block.failed for block in blocks),
        rate_per_s=spread(one.rates_per_s) if one.rates_per_s else None,
        at_rate=None if one.at_rate is None else found(one.at_rate),
        ratios=ratios,
        faster_in=[name for name, found_ratio in ratios.items() if found_ratio.median < 1],
    )


def _ratios(one: Measured, ours: Measured) -> dict[str, Spread]:
    least, most = min(ours.closed), max(ours.closed)
    values = {
        f"p50 at {least} at once": ratio(
            [_quantile_ms(b, 0.5) for b in one.closed[least]],
            [_quantile_ms(b, 0.5) for b in ours.closed[least]],
        )
    }
    for c in ours.closed:
        values[f"answers/s at {c} at once"] = ratio(
            [b.per_s for b in ours.closed[c]], [b.per_s for b in one.closed[c]]
        )
    values[f"answers a server CPU second at {most} at once"] = ratio(
        [_cpu_ms(b.server_cpu_s, b) for b in one.closed[most]],
        [_cpu_ms(b.server_cpu_s, b) for b in ours.closed[most]],
    )
    if one.rates_per_s and ours.rates_per_s and min(*one.rates_per_s, *ours.rates_per_s) > 0:
        values[f"rate at p99 <= {BOUND_MS:g} ms"] = ratio(ours.rates_per_s, one.rates_per_s)
    return values


def _latencies(one: Measured, p: float) -> dict[int, Spread]:
    return {
        c: spread([_quantile_ms(block, p) for block in blocks]) for c, blocks in one.closed.items()
    }


def _quantile_ms(block: Block, p: float) -> float:
    """Return a percentile of a block, infinite where it falls among the failed."""
    ordered = sorted(block.latency_s)
    place = int(p * (len(ordered) + block.failed))
    return 1e3 * ordered[place] if place < len(ordered) else float("inf")


def _cpu_ms(cpu_s: float, block: Block) -> float:
    return 1e3 * cpu_s / block.all_answers if block.all_answers else float("inf")
