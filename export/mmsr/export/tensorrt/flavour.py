"""Which TensorRT is installed to build with. Builds nothing.

TensorRT and TensorRT-RTX are two packages with nearly one API; what differs is here.
"""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from mmsr.bundle.errors import MmsrError
from mmsr.engine.runners.gpu import MODULES, Gpu, find_gpu

__all__ = [
    "MODULES",
    "Flavour",
    "Gpu",
    "TensorRTAbsentError",
    "TensorRTError",
    "find_flavour",
    "find_gpu",
    "why_absent",
]


class TensorRTError(MmsrError):
    """TensorRT does not take a graph or what it is asked for."""


class TensorRTAbsentError(TensorRTError):
    """No TensorRT that could build here."""


def why_absent() -> str | None:
    """Return why no engine could be built here at once, or None; imports nothing."""
    if any(importlib.util.find_spec(module) for module in MODULES.values()):
        return None
    return f"none of {', '.join(MODULES)} is installed"


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One installed TensorRT."""

    name: str  # a key of MODULES
    module: Any
    version: str

    @property
    def times_kernels(self) -> bool:
        """Whether a timing cache speeds a build up; TensorRT-RTX times nothing while it builds."""
        return self.name == "tensorrt"

    def folder_name(self, gpu: Gpu | None) -> str:
        """Return the name of a folder of engines: what they run on is in it.

        An engine of TensorRT runs on the kind of GPU that it was built on. One of TensorRT-RTX is
        finished by its runtime on the GPU at hand, so it is built for any.
        """
        where = "any" if self.name == "tensorrt-rtx" or gpu is None else gpu.sm
        return f"{self.name}-{self.version}-{where}"


def find_flavour(wanted: str | None, gpu: Gpu | None) -> Flavour:
    """Return the TensorRT to build with: `wanted`, or whichever can build here.

    With a GPU TensorRT comes before TensorRT-RTX, which alone builds without one.
    `TensorRTAbsentError` says in one line why there is none.
    """
    if wanted is not None and wanted not in MODULES:
        raise TensorRTError(f"flavour {wanted!r}; expected one of: {', '.join(MODULES)}")
    reasons = []
    for name in MODULES if wanted is None else (wanted,):
        if name == "tensorrt" and gpu is None:
            reasons.append("tensorrt needs a GPU to build, and there is none")
            continue
        try:
            module = importlib.import_module(MODULES[name])
        except (ImportError, OSError) as error:
            reasons.append(f"{name} cannot be imported ({str(error).strip().splitlines()[0]})")
            continue
        return Flavour(name=name, module=module, version=str(module.__version__))
    raise TensorRTAbsentError(
        f"no TensorRT engine is built: {'; '.join(reasons)}; the bundle is complete without one "
        "(ONNX Runtime serves it); to build one: pip install 'mmsr[tensorrt-rtx]', or "
        "'mmsr[tensorrt]' on a machine with a GPU"
    )
