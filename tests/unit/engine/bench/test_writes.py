"""When a write counts as shown: real lanes, writer and judge, in virtual time."""

import numpy as np
import pytest
from support.shop_in_virtual_time import VirtualShop, write_virtually
from support.virtual_time import Clock

from mmsr.engine.bench.samples import OK, UNFINISHED
from mmsr.engine.bench.wire import RESOURCE_EXHAUSTED
from mmsr.engine.bench.writer import Pace
from mmsr.engine.bench.writes import DELETED, KINDS, NEW, OFF, ON, Lane, Look, Write

PROBE_S = 0.010
PACE = Pace(probe_s=PROBE_S, patience_s=2.0)
SOONEST_MS = 32.0  # shown after 30 ms, to a question that takes 2 ms from being looked up


def test_a_write_is_shown_when_it_is_and_never_before() -> None:
    """Written at every phase between two questions: at most one of them too long."""
    clock = Clock()
    writes_s = (0.1 + 0.3 * np.arange(20) + 0.0005 * np.arange(20)).tolist()
    writer = write_virtually(clock, VirtualShop(clock), writes_s, 7.0, PACE)
    assert len(writer.done) == 20
    over_ms = []
    for write, at_s in zip(writer.done, writes_s, strict=True):
        # The first question that is looked up, 2 ms after it was sent, when it is shown.
        asked_s = np.ceil((at_s + 0.028) / PROBE_S - 1e-6) * PROBE_S
        assert write.shown_ms == pytest.approx((asked_s + 0.004 - at_s) * 1e3, abs=1e-6)
        assert write.acknowledged_ms == pytest.approx(33.0)
        assert write.gap_ms == pytest.approx(10.0, abs=1e-6)
        assert write.lag_ms == pytest.approx(0.0, abs=1e-6)
        over_ms.append((write.shown_ms or 0.0) - SOONEST_MS)
    assert min(over_ms) >= -1e-6
    assert max(over_ms) <= 10.0 + 1e-6
    assert max(over_ms) > 8.0  # the phases do reach from one question to the next


def test_items_go_through_every_kind_of_write_and_none_is_left() -> None:
    clock = Clock()
    shop = VirtualShop(clock)
    writes_s = (0.1 + 0.2 * np.arange(8)).tolist()
    writer = write_virtually(clock, shop, writes_s, 2.0, PACE, lanes=1)
    assert shop.written == [(kind, f"i-0-{n}") for n in (1, 2) for kind in KINDS]
    assert [write.kind for write in writer.done] == [*KINDS, *KINDS]
    assert all(write.shown_ms for write in writer.done)
    assert writer.item_ids == ["i-0-1", "i-0-2"]


def test_what_the_server_promised_and_does_not_show_is_counted() -> None:
    """Acknowledged after 33 ms and shown after 100: every question in between is one too many."""
    clock = Clock()
    shop = VirtualShop(clock, shown_s=0.100)
    [write] = write_virtually(clock, shop, [0.1], 1.0, PACE).done
    # Sent from 133 ms on and looked up before 200 ms: those of 140 to 190 ms.
    assert write.stale == 6
    assert write.shown_ms == pytest.approx(104.0)  # asked at 200 ms, which is looked up at 202


def test_a_server_that_forgets_again_has_not_shown_it_yet() -> None:
    clock = Clock()
    shop = VirtualShop(clock, blind=lambda at_s: 0.1499 < at_s < 0.1701)
    [write] = write_virtually(clock, shop, [0.1], 1.0, PACE).done
    assert write.stale == 3
    assert write.shown_ms == pytest.approx(84.0)  # asked at 180 ms, after the last that lacks it


def test_questions_without_an_answer_show_nothing_and_widen_the_gap() -> None:
    clock = Clock()
    shop = VirtualShop(clock, answers=lambda at_s: not 0.1099 < at_s < 0.1901)
    [write] = write_virtually(clock, shop, [0.1], 1.0, PACE).done
    assert write.shown_ms == pytest.approx(104.0)
    assert write.gap_ms == pytest.approx(100.0)  # from the question at 100 ms, the write's own time


def test_a_write_that_waits_for_the_server_counts_from_when_it_was_meant() -> None:
    """One item and 200 ms an acknowledgement, but a write every 100 ms: they queue up here."""
    clock = Clock()
    shop = VirtualShop(clock, acknowledged_s=0.200, shown_s=0.030)
    writer = write_virtually(clock, shop, [0.1, 0.2, 0.3], 1.0, PACE, lanes=1)
    # Each is confirmed by the third question after its acknowledgement, 225 ms after its sending.
    assert [write.acknowledged_ms for write in writer.done] == pytest.approx(
        [200.0, 324.0, 448.0], abs=11
    )
    # Shown 30 ms after the sending, which is that much before the acknowledgement.
    assert [write.shown_ms for write in writer.done] == pytest.approx([34.0, 158.0, 282.0], abs=21)
    assert [write.lag_ms for write in writer.done] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_late_generator_is_the_lag_and_is_in_the_times() -> None:
    clock = Clock()
    clock.now = 0.15  # the write was meant for 100 ms
    [write] = write_virtually(clock, VirtualShop(clock), [0.1], 1.0, PACE).done
    assert write.lag_ms == pytest.approx(50.0)
    assert write.acknowledged_ms == pytest.approx(83.0)
    assert write.shown_ms == pytest.approx(84.0)  # asked at 180 ms, 50 of them late


def test_a_window_without_writes_asks_as_often() -> None:
    counts = []
    none: list[float] = []
    for writes_s in (none, (0.1 + 0.1 * np.arange(8)).tolist()):
        clock = Clock()
        counts.append(write_virtually(clock, VirtualShop(clock), writes_s, 2.0, PACE).questions)
    assert counts == [200, 200]


def test_a_refused_write_is_told_from_the_others_and_its_item_is_given_up() -> None:
    clock = Clock()
    shop = VirtualShop(clock, status_of=lambda n: RESOURCE_EXHAUSTED if n == 2 else OK)
    writer = write_virtually(clock, shop, [0.1, 0.3, 0.5], 1.0, PACE, lanes=1)
    assert [write.status for write in writer.done] == [OK, RESOURCE_EXHAUSTED, OK]
    assert [write.shown_ms is None for write in writer.done] == [False, True, False]
    assert shop.written == [(NEW, "i-0-1"), (OFF, "i-0-1"), (NEW, "i-0-2")]
    assert writer.item_ids == ["i-0-1", "i-0-2"]  # both are deleted in the end


@pytest.mark.parametrize(("acknowledged_s", "status"), [(0.033, OK), (2.5, UNFINISHED)])
def test_what_is_never_shown_ends_the_wait(acknowledged_s: float, status: int) -> None:
    clock = Clock()
    shop = VirtualShop(clock, acknowledged_s=acknowledged_s, shown_s=1e6)
    [write] = write_virtually(clock, shop, [0.1], 1.0, PACE).done
    assert write.status == status
    assert write.shown_ms is None
    assert clock.now == pytest.approx(max(2.1, 0.1 + acknowledged_s), abs=0.02)


def test_one_agreeing_answer_is_no_proof() -> None:
    write = Write(kind=ON, item_id="i", intended_s=0.0, ready_s=0.0, sent_s=0.0)
    write.status, write.acknowledged_s = OK, 1.0
    write.looks = [Look(0.5, 0.6, True), Look(1.1, 1.2, True), Look(1.2, 1.3, True)]
    assert not write.confirmed  # the first began before the acknowledgement
    write.looks.append(Look(1.3, 1.4, True))
    assert write.confirmed
    seen = write.seen()
    assert seen is not None
    assert (seen.at_s, seen.gap_s) == (0.6, 0.5)


def test_answers_that_overtake_each_other_are_put_in_the_order_of_their_questions() -> None:
    write = Write(kind=DELETED, item_id="i", intended_s=0.0, ready_s=0.0, sent_s=0.0)
    write.status, write.acknowledged_s = OK, 0.1
    write.looks = [Look(0.3, 0.4, True), Look(0.2, 0.9, False), Look(0.25, 0.35, True)]
    seen = write.seen()
    assert seen is not None
    assert seen.at_s == 0.35  # though the one of 0.2, which lacks it, came after all
    assert seen.gap_s == pytest.approx(0.05)


def test_an_item_whose_state_nobody_knows_is_not_written_again() -> None:
    lane = Lane("i")
    assert lane.next_write() == (NEW, "i-1")
    lane.ended(shown=True)
    assert lane.next_write() == (OFF, "i-1")
    lane.ended(shown=False)
    assert lane.next_write() == (NEW, "i-2")
