"""The engine's own runners on this GPU: the suite that they pass in the tests, and their times.

On a small bundle with the real contract. Of another, which has every graph, the engines are built
and compared as `mmsr-repo engines` does. Imports tests/support, where suite and bundles are.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal

from support.every_file import publish_every_file
from support.runner_conformance import CHECKS, bind, inputs_of, requests
from support.tiny_bundle import Shop, publish

from benchmarks.gpu.setting import Findings, Setting
from mmsr.bundle.errors import MmsrError
from mmsr.bundle.repository import Repository
from mmsr.engine.opened import open_bundle
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.choose import Runners, open_engine
from mmsr.export.tensorrt.compare import EngineParityError
from mmsr.export.tensorrt.engines import EngineChoice, build_engines
from mmsr.export.tensorrt.flavour import find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets

Kind = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
ON_A_GPU: tuple[Kind, ...] = ("cuda", "tensorrt", "tensorrt-rtx")
BATCHES = (1, 8, 32)
ENGINES = ("sequence", "item", "image_encoder", "text_encoder")
CALLS = 200
WARM_UP_CALLS = 5


class RunnersFailedError(RuntimeError):
    """A runner does not do what every runner must."""


def check_runners(setting: Setting, findings: Findings) -> None:
    """Run every check for every runner; `RunnersFailedError` at the end if one has failed."""
    failed = 0
    with TemporaryDirectory(dir=setting.work) as folder:
        shop = publish(Path(folder) / "repository")
        for kind in _kinds(setting, findings):
            try:
                _prepare(kind, shop)
                failed += _check(kind, shop, findings)
                failed += _compare_engines(kind, Path(folder) / kind, findings)
            except MmsrError as reason:
                findings.note(f"{kind}: left out: {reason}")
    if failed:
        raise RunnersFailedError(f"{failed} checks of the runners failed, see the report")


def _kinds(setting: Setting, findings: Findings) -> Iterator[Kind]:
    yield "cpu"
    if setting.cuda:
        yield from ON_A_GPU
    else:
        findings.note(f"{', '.join(ON_A_GPU)}: left out: no CUDA device")


def _prepare(kind: Kind, shop: Shop) -> None:
    """Build the engine that a runner needs, in fp32: the suite compares with fp32's limits."""
    if kind not in ("tensorrt", "tensorrt-rtx"):
        return
    gpu = find_gpu()
    choice = EngineChoice(
        flavour=find_flavour(kind, gpu),
        gpu=gpu,
        precision="fp32",
        buckets=Buckets(sequence=BATCHES),
        graphs=("sequence",),
    )
    build_engines(Repository(shop.root), shop.folder.name, choice, lambda *step: None)


def _compare_engines(kind: Kind, root: Path, findings: Findings) -> int:
    """Build every engine of a whole bundle, in fp16, and compare it; return how many fail."""
    if kind not in ("tensorrt", "tensorrt-rtx"):
        return 0
    shop, gpu, failed = publish_every_file(root), find_gpu(), 0
    for graph in ENGINES:
        choice = EngineChoice(
            flavour=find_flavour(kind, gpu), gpu=gpu, graphs=(graph,), open_engine=open_engine
        )
        try:
            _, entries = build_engines(
                Repository(root), shop.folder.name, choice, lambda *step: None
            )
            outcome: object = entries[graph].parity
        except EngineParityError as error:
            outcome, failed = f"FAILED: {error}", failed + 1
        findings.cell({"runner": kind, "engine": graph, "outcome": outcome})
    return failed


def _check(kind: Kind, shop: Shop, findings: Findings) -> int:
    """Return how many checks a runner fails; each has a runner of its own."""
    failed = 0
    for check in CHECKS:
        runner = _open(kind, shop)
        try:
            check(runner, shop)
            outcome = "passed"
        except (AssertionError, ValueError, MmsrError) as error:
            outcome, failed = f"FAILED: {str(error).strip()[:200]}", failed + 1
        finally:
            runner.close()
        findings.cell({"runner": kind, "check": check.__name__, "outcome": outcome})
    runner = _open(kind, shop)
    bind(runner, shop)
    for batch in BATCHES:
        found = {"runner": runner.name, "batch": batch, "p50_ms": _p50_ms(runner, shop, batch)}
        findings.cell(found)
    runner.close()
    return failed


def _open(kind: Kind, shop: Shop) -> Runner:
    return Runners(wanted=kind).open(open_bundle(shop.folder), "sequence").runner


def _p50_ms(runner: Runner, shop: Shop, batch: int) -> float:
    """Return the median time of a call, copies included."""
    inputs = inputs_of(shop, [request._replace(k=10) for request in requests(shop, batch)])
    times = []
    for call in range(WARM_UP_CALLS + CALLS):
        began = time.perf_counter()
        runner.run(inputs)
        if call >= WARM_UP_CALLS:
            times.append(1e3 * (time.perf_counter() - began))
    return median(times)
