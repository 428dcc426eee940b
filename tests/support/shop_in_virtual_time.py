"""A shop whose writes are shown after a known time, in virtual time."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from support.queue_in_virtual_time import VirtualPacer
from support.virtual_time import Clock, run_virtually

from mmsr.engine.bench.load import Timing
from mmsr.engine.bench.writer import Pace, Receipt, Span, Writer
from mmsr.engine.bench.writes import IS_THERE, Lane


@dataclass
class VirtualShop:
    """Shows a write `shown_s` after it was sent and acknowledges it after `acknowledged_s`.

    A question is answered after `answer_s`, by what is shown at half of that.
    """

    clock: Clock
    acknowledged_s: float = 0.033
    shown_s: float = 0.030
    answer_s: float = 0.004
    status_of: Callable[[int], int] = lambda number: 0  # of the n-th write, from 1 on
    answers: Callable[[float], bool] = lambda at_s: True  # whether a question of then is answered
    blind: Callable[[float], bool] = lambda at_s: False  # whether it is answered with nothing
    changes: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    written: list[tuple[str, str]] = field(default_factory=list)

    async def write(self, kind: str, item_id: str) -> Receipt:
        """Take a write."""
        self.written.append((kind, item_id))
        status = self.status_of(len(self.written))
        if status == 0:
            change = (self.clock.now + self.shown_s, IS_THERE[kind])
            self.changes.setdefault(item_id, []).append(change)
        await asyncio.sleep(self.acknowledged_s)
        return Receipt(status)

    async def there(self, item_ids: Sequence[str]) -> frozenset[str] | None:
        """Answer a question."""
        sent_s = self.clock.now
        await asyncio.sleep(self.answer_s / 2)
        found = frozenset(item_id for item_id in item_ids if self._is_there(item_id))
        await asyncio.sleep(self.answer_s / 2)
        if self.blind(sent_s):
            return frozenset()
        return found if self.answers(sent_s) else None

    def _is_there(self, item_id: str) -> bool:
        now_s = self.clock.now + 1e-9
        return next(
            (there for at_s, there in reversed(self.changes.get(item_id, [])) if at_s <= now_s),
            False,
        )


def write_virtually(
    clock: Clock,
    shop: VirtualShop,
    writes_s: Sequence[float],
    end_s: float,
    pace: Pace,
    lanes: int = 64,
) -> Writer:
    """Run one window from 0 on; takes no real time but that of computing."""
    timing = Timing(clock=clock, pacer=lambda: VirtualPacer(clock))

    async def main() -> Writer:
        writer = Writer(shop, [Lane(f"i-{n}") for n in range(lanes)], pace, timing)
        await writer.run(Span(number=0, start_s=0.0, end_s=end_s, writes_s=writes_s))
        return writer

    return run_virtually(clock, main())
