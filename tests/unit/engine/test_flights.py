"""Calls under way, and waiting for those that began before a moment."""

import asyncio

from support.virtual_time import Clock, run_virtually

from mmsr.engine.flights import Flights


def test_only_calls_that_began_before_are_waited_for() -> None:
    async def main() -> None:
        flights = Flights()
        before = [flights.begin(), flights.begin()]
        landing = asyncio.create_task(flights.landed(flights.mark()))
        after = flights.begin()
        for era in before:
            assert not landing.done()
            flights.end(era)
            await asyncio.sleep(1)
        assert landing.done()
        assert flights.count == 1
        flights.end(after)
        assert flights.count == 0

    run_virtually(Clock(), main())


def test_without_calls_nobody_waits() -> None:
    async def main() -> None:
        flights = Flights()
        await flights.landed(flights.mark())
        flights.end(flights.begin())
        await flights.landed(flights.mark())

    run_virtually(Clock(), main())


def test_a_second_change_waits_for_the_calls_of_the_first_too() -> None:
    async def main() -> None:
        flights = Flights()
        first = flights.begin()
        one = asyncio.create_task(flights.landed(flights.mark()))
        await asyncio.sleep(1)
        second = flights.begin()
        two = asyncio.create_task(flights.landed(flights.mark()))
        await asyncio.sleep(1)
        flights.end(second)
        await asyncio.sleep(1)
        assert not one.done()
        assert not two.done()
        flights.end(first)
        await asyncio.sleep(1)
        assert one.done()
        assert two.done()

    run_virtually(Clock(), main())
