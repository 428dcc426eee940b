"""Which TensorRT is installed, and which GPU there is. Builds nothing.

TensorRT and TensorRT-RTX are two packages with nearly one API; what differs is here.
"""

import ctypes
import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from mmsr.bundle.errors import MmsrError

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # flavour -> its module
MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


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
class Gpu:
    """The first CUDA device."""

    name: str
    sm: str  # "sm90"


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


def find_gpu() -> Gpu | None:
    """Return the first CUDA device, asked of the driver itself; None without one.

    Some TensorRT libraries end the process when asked on a machine without a GPU: ask here first.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value == 0:
        return None
    if driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, len(name), device)
    digits = []
    for attribute in (MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE):
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        digits.append(str(value.value))
    return Gpu(name=name.value.decode(), sm="sm" + "".join(digits))


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
