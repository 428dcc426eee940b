"""One ONNX file -> one serialized engine, by TensorRT 10.14 to 11 or by TensorRT-RTX.

Networks are strongly typed: precision is what the file says. Knows no bundle and no torch. Only
what all of them offer is used; there are no precision flags, calibrators or `supports_model` in 11.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsr.bundle.files import atomic_path
from mmsr.bundle.manifest import GraphSpec
from mmsr.engine.runners.tensorrt_engine import MOST_MESSAGES, make_logger
from mmsr.export.tensorrt.flavour import Flavour, TensorRTError
from mmsr.export.tensorrt.profiles import Profile, shape_of

WORKSPACE_BYTES = (
    8 << 30
)  # scores of 256 requests over 1 M items take 1 GiB, and TopK needs as much

# Told what is being done, how many steps are done and of how many.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """What to build."""

    onnx: Path
    spec: GraphSpec
    profiles: Sequence[Profile]
    refittable: bool = False  # weights can be replaced later; needs a GPU while building
    timing_cache: Path | None = None  # read if there, written afterwards, if the flavour has one


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine."""

    plan: bytes
    seconds: float


def build_engine(request: BuildRequest, flavour: Flavour, tell: Tell) -> BuiltEngine:
    """Parse and build; `TensorRTError` names the node that is not understood, or the reason."""
    began = time.perf_counter()
    trt, logger = flavour.module, make_logger(flavour.module)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    _parse(request.onnx, network, trt, logger)
    cache = request.timing_cache if flavour.times_kernels else None
    config = _config(request, builder, trt)
    if cache is not None:
        load_cache(config, cache)
    for profile in request.profiles:
        config.add_optimization_profile(_profile(request.spec, profile, builder, network))
    monitor = make_monitor(trt, tell)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TensorRTError(
            f"{request.onnx.name}: {flavour.name} {flavour.version} parses but does not build it: "
            f"{logger.reason()}"
        )
    if cache is not None:
        save_cache(config, cache)
    return BuiltEngine(plan=bytes(plan), seconds=time.perf_counter() - began)


def make_monitor(trt: Any, tell: Tell) -> Any:
    """Return a progress monitor of TensorRT that tells of its phases."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.steps[name] = steps
            tell(name, 0, steps)

        def step_complete(self, name: str, step: int) -> bool:
            tell(name, step + 1, self.steps.get(name, step + 1))
            return True  # go on

        def phase_finish(self, name: str) -> None:
            steps = self.steps.pop(name, 1)
            tell(name, steps, steps)

    return Monitor()


def _parse(onnx: Path, network: Any, trt: Any, logger: Any) -> None:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx.read_bytes()):
        return
    problems = [_described(parser.get_error(i)) for i in range(parser.num_errors)]
    raise TensorRTError(
        f"{onnx.name}: TensorRT does not take it: {'; '.join(problems[:MOST_MESSAGES])}"
    )


def _described(error: Any) -> str:
    where = f"node {error.node_name()!r} ({error.node_operator()})" if error.node_name() else ""
    said = " ".join(str(error.desc()).split())
    return f"{where}: {said}" if where else said


def _config(request: BuildRequest, builder: Any, trt: Any) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # Half of a number's bits are lost in TensorFloat-32: fp32 means fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if request.refittable:
        config.set_flag(trt.BuilderFlag.REFIT)
    return config


def _profile(spec: GraphSpec, profile: Profile, builder: Any, network: Any) -> Any:
    made = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:  # its values are sizes; they too have a range
            sizes = profile[tensor.name]
            made.set_shape_input(tensor.name, [sizes.least], [sizes.typical], [sizes.most])
        else:
            made.set_shape(tensor.name, *shape_of(spec, tensor.name, profile))
    return made


def load_cache(config: Any, path: Path) -> None:
    """Let the build use and extend what `path` holds, or begin a new timing cache."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    # A cache of another version or GPU is refused, by None or by False: a new one is begun.
    if known and (cache is None or not config.set_timing_cache(cache, False)):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    elif not known:
        config.set_timing_cache(cache, False)


def save_cache(config: Any, path: Path) -> None:
    """Write what the build has measured."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(bytes(cache.serialize()))
