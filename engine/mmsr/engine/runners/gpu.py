"""Which GPU there is, asked of the driver itself. Imports nothing that could fail without one."""

import ctypes
from dataclasses import dataclass

# The flavours of TensorRT and their modules: two packages with nearly one API.
MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
MAJOR_ATTRIBUTE, MINOR_ATTRIBUTE = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The first CUDA device."""

    name: str
    sm: str  # "sm90"


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
