"""Opens a bundle for a comparison: with the runner that serves it, or that runner's stand-in.

ONNX Runtime's CPU provider has no bfloat16 kernels, so on a machine without a GPU a bundle in that
precision is computed in fp32 and every value rounded (`bfloat16`). Imports no torch.
"""

import tempfile
from pathlib import Path

from mmsr.bundle.manifest import load_manifest
from mmsr.engine.model import SequenceModel, open_model
from mmsr.engine.opened import open_bundle
from mmsr.engine.precision import precision_of
from mmsr.engine.runners.onnx import open_onnx

EMULATED = "bf16"


def open_to_prove(folder: Path, *, threads: int) -> SequenceModel:
    """Open and verify a bundle; `BundleError` says what is wrong with it."""
    if precision_of(load_manifest(folder)) != EMULATED:
        return open_model(folder, threads=threads)
    from mmsr.export.bfloat16 import write_emulated

    bundle = open_bundle(folder)
    with tempfile.TemporaryDirectory() as spare:
        path = Path(spare) / bundle.sequence_spec.file
        write_emulated(bundle.sequence_path, path)
        runner = open_onnx(path, bundle.sequence_spec, threads=threads)
    runner.name = f"{runner.name}, bfloat16 emulated"
    model = SequenceModel(bundle, runner, threads=threads)
    model.bind()
    return model
