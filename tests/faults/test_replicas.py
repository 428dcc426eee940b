"""Servers that are stopped and started anew under the load of balancing clients."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from support.serving import PATIENCE_S, Served, start
from support.tally import SEED, Tally, rounds
from support.tiny_bundle import Shop, Sizes, publish

from mmsr.engine.client import AsyncRecommenderClient, Recommendations
from mmsr.engine.errors import EngineError

RESTARTS = rounds(2, 20)
ASKERS = 6
ITEMS = 10  # that are asked about
CALLS_BETWEEN = 60  # that a server has answered before another one is stopped
SIZES = Sizes(items=60, probes=8)
DEADLINE_MS = 1e3 * PATIENCE_S


class Load:
    """Askers that go on until they are told to stop."""

    def __init__(self, shops: Sequence[Shop]) -> None:
        self.answered = Counter[str]()  # by the bundle, of which each server has its own
        self.problems: list[str] = []
        self._right = {shop.folder.name: right_answers(shop) for shop in shops}
        self._stop = False
        self._news = asyncio.Condition()

    async def ask_until_stopped(self, client: AsyncRecommenderClient, seed: int) -> None:
        choose = random.Random(seed)
        while not self._stop:
            item = f"item-{choose.randrange(ITEMS)}"
            try:
                answer = await client.recommend([item], k=3, deadline_ms=DEADLINE_MS)
                self._check(item, answer)
            except EngineError as error:
                self.problems.append(f"{type(error).__name__}: {error}")
                continue
            async with self._news:
                self.answered[answer.model_version] += 1
                self._news.notify_all()

    def _check(self, item: str, answer: Recommendations) -> None:
        found = tuple(item_id for item_id, _ in answer.items)
        right = self._right[answer.model_version][item]
        if found != right:
            self.problems.append(f"{item}: {found}, right is {right}")

    async def more(self, version: str) -> None:
        """Wait until a server has answered `CALLS_BETWEEN` more calls."""
        wanted = self.answered[version] + CALLS_BETWEEN
        async with self._news:
            await self._news.wait_for(lambda: self.answered[version] >= wanted)

    def stop(self) -> None:
        self._stop = True


def right_answers(shop: Shop) -> dict[str, tuple[str, ...]]:
    """Return the three best items after each of some items, by the numpy twin."""
    items = [f"item-{n}" for n in range(ITEMS)]
    return {
        item: tuple(found for found, _ in shop.twin.recommend([item], 3, [item])) for item in items
    }


def test_servers_that_are_stopped_in_turns_fail_no_request(tmp_path: Path, tally: Tally) -> None:
    """SIGTERM of one of two `mmsr-serve` under the load of the client of the package."""
    shops = [publish(tmp_path / f"repository-{n}", SIZES, seed=n) for n in range(2)]
    with ExitStack() as stack:

        def begin(place: int, port: str) -> Served:
            served = start(shops[place].root, "--port", port)
            stack.callback(served.end)
            stack.callback(served.process.kill)
            return served

        servers = [begin(place, "0") for place in range(2)]
        asyncio.run(restarted_under_load(Load(shops), servers, begin, tally))
        for served in servers:
            assert served.stop() == 0, served.log
            assert "Traceback" not in served.log
    tally.check(at_least=RESTARTS)


async def restarted_under_load(
    load: Load, servers: list[Served], begin: Callable[[int, str], Served], tally: Tally
) -> None:
    """Stop each server in turn and start it anew on its port."""
    ports = [served.target.rpartition(":")[2] for served in servers]
    versions = [served.wait_for(r"serving ([0-9a-f]{16}) on")[1] for served in servers]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)
    async with AsyncRecommenderClient(target, timeout_s=PATIENCE_S) as client:
        askers = [
            asyncio.create_task(load.ask_until_stopped(client, SEED + n)) for n in range(ASKERS)
        ]
        for n in range(RESTARTS):
            place, before = n % 2, len(load.problems)
            await load.more(versions[place])
            servers[place].process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(servers[place].end)
            drained = servers[place].log
            await load.more(versions[1 - place])
            servers[place] = begin(place, ports[place])
            await load.more(versions[place])  # it has been found again
            problems = load.problems[before:]
            if code or "none lost" not in drained:
                problems.append(f"code {code}: {drained}")
            if problems:
                tally.lose("; ".join(problems[:3]))
            else:
                tally.survived("its calls are answered, the next go to the other: none fails")
        load.stop()
        await asyncio.gather(*askers)
