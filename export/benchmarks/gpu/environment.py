"""What this machine has: GPU, driver, versions, what is missing, and how fast its memory copies."""

import importlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu.setting import Findings, Setting
from benchmarks.gpu.timing import copy_rate_bytes_per_s

COPY_BYTES = 4 << 30
QUERY = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw"
# Module -> what is left out without it.
WANTED = {
    "onnx": "every graph: ONNX Runtime and TensorRT have nothing to run",
    "onnxscript": "every graph: ONNX Runtime and TensorRT have nothing to run",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT-RTX",
    "torchvision": "the image encoder",
    "transformers": "the text encoder",
    "triton": "torch.compile",
}
PACKAGES = ("torch", "numpy", "onnxruntime-gpu", "onnxruntime", *WANTED)


def look_round(setting: Setting, findings: Findings) -> None:
    """Report the machine."""
    findings.put("python", platform.python_version())
    findings.put("platform", platform.platform())
    findings.put("cpus", len(os.sched_getaffinity(0)))
    findings.put("versions", {name: v for name in PACKAGES if (v := _version(name))})
    findings.put("cuda_of_torch", torch.version.cuda)
    missing = {}
    for module, loss in WANTED.items():
        problem = _import_problem(module)
        if problem:
            missing[module] = problem
            findings.note(f"{module}: {problem}; left out: {loss}")
    findings.put("missing", missing)
    if setting.cuda:
        findings.put("gpu", _gpu())
        findings.put("nvidia_smi", _nvidia_smi())
    rate = copy_rate_bytes_per_s(setting.device, 1 << 22 if setting.quick else COPY_BYTES)
    findings.put("copy_bytes_per_s", rate)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _import_problem(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # libraries that lie elsewhere, too
        return " ".join(str(error).split())[:200]
    return None


def _gpu() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "sm": f"sm{properties.major}{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
    }


def _nvidia_smi() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "nvidia-smi is not on the PATH"
    command = [program, f"--query-gpu={QUERY}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() or done.stderr.strip()
