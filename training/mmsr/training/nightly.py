"""A night: prepare, features, fit, evaluate, final; each is skipped when nothing has changed.

What a stage makes lies in a folder named by what it follows from, so a night that was killed goes
on where it stopped, and one that finds nothing new does nothing. Knows nothing of the terminal.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from mmsr.bundle.errors import MmsrError
from mmsr.training.nightly_stages import (
    Night,
    Stage,
    evaluate_stage,
    features_stage,
    final_stage,
    fit_stage,
    prepare_stage,
)
from mmsr.training.nightly_store import (
    NightRecord,
    NightStatus,
    StageStatus,
    Work,
    is_marked,
    mark,
)

STAGES = ("prepare", "features", "fit", "evaluate", "final")
INTERRUPTED = 130  # the exit code of an interrupted command


def run_night(night: Night, keep: int, over: Callable[[StageStatus], None]) -> NightStatus:
    """Do what is left of a night and say of each stage when it is over.

    The caller holds the lock of `night.work`. The newest `keep` nights stay, this one among them.
    """
    status = NightStatus(
        night=datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S-%fZ"),
        process=os.getpid(),
        stages=[StageStatus(name=name) for name in STAGES],
    )
    finished = False
    try:
        for stage, told in zip(_stages(night), status.stages, strict=True):
            _do(stage, told, status, night.work)
            over(told)
        night.work.finish(_record(status), keep)
        status.state, status.exit_code, status.latest = "done", 0, status.stages[-1].folder
        finished = True
    finally:
        if not finished:
            _fail(status)
        night.work.save_status(status)
    return status


def _stages(night: Night) -> Iterator[Stage]:
    """Yield each stage once those before it are done."""
    prepare = prepare_stage(night)
    yield prepare
    yield features_stage(night, prepare.folder)
    fit = fit_stage(night, prepare.folder)
    yield fit
    yield evaluate_stage(night, fit.folder)
    yield final_stage(night, prepare.folder, fit.folder)


def _do(stage: Stage, told: StageStatus, status: NightStatus, work: Work) -> None:
    told.folder, told.state = str(stage.folder.relative_to(work.root)), "running"
    work.save_status(status)
    began_s = time.monotonic()
    if is_marked(stage.folder, stage.name, stage.stamp):
        told.state = "unchanged"
    else:
        stage.work()
        mark(stage.folder, stage.name, stage.stamp)
        told.state = "done"
    told.seconds = round(time.monotonic() - began_s, 3)
    told.summary = stage.summary()
    work.save_status(status)


def _fail(status: NightStatus) -> None:
    error = sys.exception()
    status.state, status.error = "failed", str(error) or type(error).__name__
    status.exit_code = error.exit_code if isinstance(error, MmsrError) else 1
    if isinstance(error, KeyboardInterrupt):
        status.exit_code = INTERRUPTED
    for told in status.stages:
        if told.state == "running":
            told.state = "failed"


def _record(status: NightStatus) -> NightRecord:
    folders = {told.name: told.folder.partition("/")[2] for told in status.stages}
    return NightRecord(
        night=status.night, data=folders["prepare"], run=folders["fit"], final=folders["final"]
    )
