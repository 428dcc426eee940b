"""Opens a bundle's model and proves its runner; one on a GPU that fails makes way for the CPU's."""

import logging
from functools import partial
from pathlib import Path

from mmsr.engine.config import RunnerName
from mmsr.engine.errors import DeviceFailed, ProbeFailed
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.pace import Rest, no_rest
from mmsr.engine.probe import ProbeReport, prove
from mmsr.engine.runners.onnx import LOAD_ERRORS

log = logging.getLogger(__name__)


def open_proven(
    folder: Path,
    *,
    threads: int,
    runner: RunnerName,
    users: int | None = None,
    verified: bool = False,
    rest: Rest = no_rest,
) -> tuple[SequenceModel, ProbeReport]:
    """Return a model that answers its probe set like PyTorch, and the report.

    `BundleError`, `ConfigError`: as `open_model`. `ProbeFailed`, `DeviceFailed`: the runner that
    was asked for answers wrong, or not at all; with "auto" the CPU is tried then. `users` as in
    `prove`, `verified` and `rest` as in `open_bundle`.
    """
    open_with = partial(open_model, folder, threads=threads, verified=verified, rest=rest)
    model = open_with(runner=runner)
    try:
        return model, checked(model, users)
    except (ProbeFailed, DeviceFailed, *LOAD_ERRORS) as error:
        name = model.runner.name
        model.close()
        if runner != "auto" or not model.on_device:
            raise
        log.warning("%s is not used (%s); ONNX Runtime serves on the CPU instead", name, error)
    model = open_with(runner="cpu")
    return model, checked(model, users)


def checked(model: SequenceModel, users: int | None) -> ProbeReport:
    """Return the report of an open model; `ProbeFailed` if it says that it is wrong."""
    report = prove(model, users)
    report.check()
    return report
