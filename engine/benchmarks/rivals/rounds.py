"""Who is asked when: closed loops there and back, searches in lockstep; all bounded in time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rivals.arena import Contender, say
from benchmarks.rivals.load import Block, Plan
from benchmarks.rivals.search import FIRST_SHARE, Search
from benchmarks.rivals.verdicts import holds

CONCURRENCIES = (1, 16, 64)
BLOCKS_A_SEARCH = 60  # of all entrants together, at most
MOST_STEPS = 14  # probes of one search
DISTURBED = 0.25  # of the cores, taken by others: a miss then says nothing
MOST_DISTURBED = 3  # probes a search that are not counted for that reason
NEEDED = 1000  # requests a probe: a p99 of fewer is not given
LONGEST_PROBE_S = 6.0


@dataclass(kw_only=True)
class Searched:
    """One search and the blocks that decided it."""

    search: Search
    blocks: list[Block] = field(default_factory=list)
    uncounted: int = 0  # misses while others had the machine

    def held(self) -> Block | None:
        """Return the block of the highest rate that was held."""
        held = [
            block
            for block in self.blocks
            if block.plan.rate_per_s == self.search.held_per_s and holds(block)
        ]
        return held[-1] if held else None


@dataclass(kw_only=True)
class Record:
    """Everything that was measured of one contender, by pass."""

    contender: Contender
    closed: dict[int, list[Block]] = field(default_factory=dict)  # by concurrency
    searches: list[Searched] = field(default_factory=list)


async def closed_loops(
    records: Sequence[Record], rounds: int, seconds: float, concurrencies: Sequence[int]
) -> None:
    """Run each concurrency A B C ... C B A, `rounds` times."""
    for concurrency in concurrencies:
        for number in range(2 * rounds):
            for record in records if number % 2 == 0 else reversed(records):
                plan = Plan(concurrency=concurrency, duration_s=seconds)
                block = await record.contender.block(plan)
                record.closed.setdefault(concurrency, []).append(block)
                tell(record, f"{concurrency} at once", block)


async def searches(records: Sequence[Record], passes: int, seconds: float) -> None:
    """Search the highest rates, a probe each in turns; a pass begins where the last ended.

    A pass that takes longer than BLOCKS_A_SEARCH blocks ends with what was held by then.
    """
    for number in range(passes):
        ends = time.monotonic() + BLOCKS_A_SEARCH * seconds
        for record in records:
            first = record.searches[-1].search.held_per_s if record.searches else 0.0
            search = Search(next_per_s=first or FIRST_SHARE * fastest_per_s(record))
            record.searches.append(Searched(search=search))
        for step in range(MOST_STEPS):
            turn = records if (number + step) % 2 == 0 else list(reversed(records))
            for record in turn:
                if not record.searches[-1].search.done and time.monotonic() < ends:
                    await probe(record, seconds, seed=1000 * number + step)


async def probe(record: Record, seconds: float, seed: int) -> None:
    """Ask at the rate that a search is at."""
    searched = record.searches[-1]
    rate = searched.search.next_per_s
    duration_s = min(LONGEST_PROBE_S, max(seconds, NEEDED / rate))
    block = await record.contender.block(Plan(rate_per_s=rate, duration_s=duration_s, seed=seed))
    held = holds(block)
    searched.blocks.append(block)
    tell(record, f"{rate:,.0f}/s {'held' if held else 'missed'}", block)
    disturbed = block.others_share > DISTURBED and searched.uncounted < MOST_DISTURBED
    if not held and disturbed:
        searched.uncounted += 1
    else:
        searched.search.note(held)


def fastest_per_s(record: Record) -> float:
    """Return the most answers a second that a closed loop has seen."""
    return max(block.per_s for blocks in record.closed.values() for block in blocks)


def tell(record: Record, what: str, block: Block) -> None:
    """Say how a block went."""
    late_s = sorted(block.latency_s)[len(block.latency_s) * 99 // 100 :]
    p99 = f"{1e3 * late_s[0]:,.1f} ms" if late_s else "none"
    say(
        f"{record.contender.entrant.name}, {what}: {block.per_s:,.0f}/s, p99 {p99}, "
        f"{block.failed} failed, others {block.others_share:.0%}"
    )
