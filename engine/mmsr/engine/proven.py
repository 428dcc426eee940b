"""Opens a bundle's model and proves its runner; one on a GPU that fails makes way for the CPU's."""

import logging
from pathlib import Path

from mmsr.engine.config import RunnerName
from mmsr.engine.errors import DeviceFailed, ProbeFailed
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.probe import ProbeReport, prove
from mmsr.engine.runners.onnx import LOAD_ERRORS

log = logging.getLogger(__name__)


def open_proven(
    folder: Path, *, threads: int, runner: RunnerName
) -> tuple[SequenceModel, ProbeReport]:
    """Return a model that answers its probe set like PyTorch, and the report.

    `BundleError`, `ConfigError`: as `open_model`. `ProbeFailed`, `DeviceFailed`: the runner that
    was asked for answers wrong, or not at all; with "auto" the CPU is tried then.
    """
    model = open_model(folder, threads=threads, runner=runner)
    try:
        return model, checked(model)
    except (ProbeFailed, DeviceFailed, *LOAD_ERRORS) as error:
        name = model.runner.name
        model.close()
        if runner != "auto" or not model.on_device:
            raise
        log.warning("%s is not used (%s); ONNX Runtime serves on the CPU instead", name, error)
    model = open_model(folder, threads=threads, runner="cpu")
    return model, checked(model)


def checked(model: SequenceModel) -> ProbeReport:
    """Return the report of an open model; `ProbeFailed` if it says that it is wrong."""
    report = prove(model)
    report.check()
    return report
