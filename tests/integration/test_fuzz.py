"""Every method of every service under messages that are random, extreme or damaged.

Two thousand in `make test`; `make fuzz` sends 100,000 (MMSR_FUZZ_CALLS) and writes the report
engine/results/fuzz.md (MMSR_FUZZ_REPORT).
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pool import Default
from support.fuzz import Report, Target, fuzz_all, garbage, targets_of
from support.in_process import asking, call, plain, running
from support.tiny_bundle import Shop
from support.tiny_explain import with_explain
from support.tiny_live import publish_live

from mmsr.engine.config import CatalogueConfig
from mmsr.engine.server import Server

CALLS = int(os.environ.get("MMSR_FUZZ_CALLS", "2000"))
REPORT = os.environ.get("MMSR_FUZZ_REPORT")
SEED = int(os.environ.get("MMSR_FUZZ_SEED", "1"))
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
FOREIGN = "opentelemetry"  # exporters of earlier tests, whose collectors have gone
ENDS_THE_SERVER = frozenset({"Drain"})
WARM_SHARE = 0.2  # of the calls: pools, caches and arenas fill
GROWTH = 1.05  # of resident memory from then on
GROWTH_MIB = 8.0  # that a short run may take for its first large messages


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Return a shop whose server answers every method: it is live, explains and encodes."""
    return publish_live(tmp_path_factory.mktemp("shop") / "repository", complete=with_explain)


def resident_mib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE_BYTES / 2**20


def targets_on(server: Server) -> list[Target]:
    """Return every method that the server has, as its services' descriptors list them."""
    services = [Default().FindServiceByName(face.name) for face in server.faces]
    admin = [Default().FindServiceByName("mmsr.v1.Admin")]
    return [
        *targets_of(f"127.0.0.1:{server.port}", services, without=ENDS_THE_SERVER),
        *targets_of(f"127.0.0.1:{server.admin_port}", admin, without=ENDS_THE_SERVER),
    ]


class Errors(logging.Handler):
    """Keeps what is logged at ERROR."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(FOREIGN):
            self.lines.append(self.format(record))


@pytest.fixture
def errors() -> Iterator[Errors]:
    """Keep errors alone: pytest keeps every line, and some calls set the level to DEBUG."""
    handler, root = Errors(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    logging.disable(logging.WARNING)
    yield handler
    logging.disable(logging.NOTSET)
    root.removeHandler(handler)
    root.setLevel(level)


def test_no_message_crashes_the_server_or_makes_it_say_internal(
    shop: Shop, errors: Errors, tmp_path: Path
) -> None:
    async def main() -> tuple[Report, list[float], float]:
        catalogue = CatalogueConfig(path=tmp_path / "catalogue.db")
        async with running(shop, admin_port=0, catalogue=catalogue) as server:
            targets = targets_on(server)
            await fuzz_all(targets, int(WARM_SHARE * CALLS), SEED + 1000)
            before, began = resident_mib(), time.monotonic()
            report = await fuzz_all(targets, CALLS, SEED)
            spent_s = time.monotonic() - began
            await garbage(server.port, max(20, CALLS // 500), SEED)
            after = resident_mib()
            async with plain(server) as channel:
                await call(channel, asking("item-1"))  # it still answers
        return report, [before, after], spent_s

    report, memory_mib, spent_s = asyncio.run(main())
    lines = errors.lines
    if REPORT:
        Path(REPORT).write_text(written(report, memory_mib, spent_s, len(lines)))
    assert not report.surprises, "\n".join([*report.surprises[:20], *lines[:20]])
    assert not lines, "\n".join(lines[:20])
    assert memory_mib[1] <= max(GROWTH * memory_mib[0], memory_mib[0] + GROWTH_MIB), memory_mib


def written(report: Report, memory_mib: list[float], spent_s: float, errors: int) -> str:
    """Return the report as a page of Markdown."""
    rows = []
    for path, messages in sorted(report.sent.items()):
        codes = {code: n for (of, code), n in sorted(report.codes.items()) if of == path}
        said = ", ".join(f"{code} {n:,}" for code, n in codes.items())
        rows.append(f"| `{path[1:]}` | {messages:,} | {said} |")
    warm, calls = int(WARM_SHARE * CALLS), sum(report.codes.values())
    lines = [
        "# Damaged messages on every method",
        "",
        f"`make fuzz` (`MMSR_FUZZ_CALLS={CALLS} MMSR_FUZZ_SEED={SEED}`): server and clients in one",
        "process, a bundle of 300 items with all graphs, a catalogue that lives, raw bytes over",
        f"loopback. Before it {warm:,} calls of another seed, after it connections that do not",
        "speak HTTP/2.",
        "",
        f"* calls {calls:,}, messages {sum(report.sent.values()):,}, in {spent_s:.0f} s",
        "* statuses that must not be (INTERNAL, UNKNOWN, UNAVAILABLE, DATA_LOSS) and tracebacks:",
        f"  {len(report.surprises)}",
        f"* lines of the log at ERROR: {errors}",
        f"* resident memory: {memory_mib[0]:.1f} MiB before, {memory_mib[1]:.1f} MiB after",
        "",
        "| method | messages | calls by status |",
        "|---|--:|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
