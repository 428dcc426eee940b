"""Blocks of steps -> rates, ratios and a table. Knows nothing of processes."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from benchmarks.rivals.pacing import Block

Rate = Callable[[Block], float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median between the least and the greatest."""

    median: float
    least: float
    greatest: float

    def text(self, decimals: int) -> str:
        """Return it as "0.95 (0.91–0.99)"."""
        least, greatest = f"{self.least:,.{decimals}f}", f"{self.greatest:,.{decimals}f}"
        return f"{self.median:,.{decimals}f} ({least}–{greatest})"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What the blocks of one contestant say, and how it compares with the first contestant."""

    name: str
    windows_per_s: Spread
    targets_per_s: Spread
    step_ms: Spread
    step_cpu_ms: Spread
    padding: float  # share of the places that held no target
    peak_rss_mib: float
    targets_ratio: Spread  # the first one's targets a second over this one's
    targets_cpu_ratio: Spread  # the same by CPU time, which a busy machine disturbs less
    step_ratio: Spread  # this one's time of a step over the first one's


def windows_per_s(block: Block) -> float:
    """Return the training windows a second."""
    return block.windows / block.seconds


def targets_per_s(block: Block) -> float:
    """Return the predicted positions a second."""
    return block.targets / block.seconds


def targets_per_cpu_s(block: Block) -> float:
    """Return the predicted positions a second of CPU time."""
    return block.targets / block.cpu_s


def step_s(block: Block) -> float:
    """Return the seconds of a step."""
    return block.seconds / block.steps


def step_cpu_s(block: Block) -> float:
    """Return the CPU seconds of a step."""
    return block.cpu_s / block.steps


def summarise(name: str, blocks: list[Block], first: list[Block]) -> Line:
    """Sum up one contestant's blocks beside the first one's of the same passes."""
    return Line(
        name=name,
        windows_per_s=_spread(windows_per_s, blocks),
        targets_per_s=_spread(targets_per_s, blocks),
        step_ms=_spread(lambda block: step_s(block) * 1e3, blocks),
        step_cpu_ms=_spread(lambda block: step_cpu_s(block) * 1e3, blocks),
        padding=1 - sum(b.targets for b in blocks) / sum(b.places for b in blocks),
        peak_rss_mib=blocks[-1].peak_rss_mib,
        targets_ratio=_ratio(targets_per_s, first, blocks),
        targets_cpu_ratio=_ratio(targets_per_cpu_s, first, blocks),
        step_ratio=_ratio(step_s, blocks, first),
    )


def _spread(rate: Rate, blocks: list[Block]) -> Spread:
    values = [rate(block) for block in blocks]
    return Spread(median=median(values), least=min(values), greatest=max(values))


def _ratio(rate: Rate, over: list[Block], under: list[Block]) -> Spread:
    """Return the ratio of the medians, between the extremes of the passes' own ratios."""
    ratios = [rate(a) / rate(b) for a, b in zip(over, under, strict=True)]
    middle = median(rate(block) for block in over) / median(rate(block) for block in under)
    return Spread(median=middle, least=min(ratios), greatest=max(ratios))


HEADS = (
    "",
    "windows/s",
    "targets/s",
    "step, ms",
    "of it CPU",
    "padding",
    "peak MiB",
    "first / this, targets/s",
    "by CPU time",
    "step: this / first",
)


def table(lines: list[Line]) -> str:
    """Return a Markdown table."""
    rows = [HEADS, ("---", *["--:"] * (len(HEADS) - 1)), *(_cells(line) for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.name,
        line.windows_per_s.text(0),
        line.targets_per_s.text(0),
        line.step_ms.text(0),
        line.step_cpu_ms.text(0),
        f"{line.padding:.1%}",
        f"{line.peak_rss_mib:,.0f}",
        line.targets_ratio.text(2),
        line.targets_cpu_ratio.text(2),
        line.step_ratio.text(2),
    )
