"""TensorRT's and TensorRT-RTX's own objects behind one small interface. Imports neither.

Their modules are handed in. Before anything here is called there must be a GPU: without one some
of their libraries end the process.
"""

from typing import Any, NamedTuple, Protocol

from mmsr.engine.errors import DeviceFailed

MOST_MESSAGES = 3  # of TensorRT's own, in one error
TYPES = ("int64", "int32", "float32", "float16", "bool", "uint8", "int8")


class EngineTensor(NamedTuple):
    """An input or output of an engine."""

    dtype: str  # numpy's name
    is_input: bool
    on_host: bool  # a size, which the host reads
    varies: bool  # whether its shape is said before each call


class EngineContext(Protocol):
    """One shape's way through an engine."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Say the shape of an input that varies."""

    def set_address(self, name: str, address: int) -> None:
        """Say where an input or output lies."""

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an output will have."""

    def capturable(self, stream: int) -> bool:
        """Tell whether a call could be captured in a CUDA graph now."""

    def enqueue(self, stream: int) -> None:
        """Queue a call."""


class Engine(Protocol):
    """A loaded engine."""

    @property
    def tensors(self) -> dict[str, EngineTensor]:
        """Its inputs and outputs by name."""

    @property
    def scratch_bytes(self) -> int:
        """How much memory a call computes in."""

    def context(self, profile: int, scratch: int, stream: int) -> EngineContext:
        """Return a context that computes in the memory at `scratch`."""


def make_logger(trt: Any) -> Any:
    """Return a logger of TensorRT that keeps what goes wrong, to be said in an error."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.problems.append(" ".join(message.split()))

        def reason(self) -> str:
            return "; ".join(self.problems[:MOST_MESSAGES]) or "it gives no reason"

    return Logger()


class LoadedEngine:
    """An engine of either flavour; `DeviceFailed` if this GPU or version does not take the plan."""

    def __init__(self, trt: Any, plan: bytes) -> None:
        self.trt, self.logger = trt, make_logger(trt)
        self._runtime = trt.Runtime(self.logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise DeviceFailed(f"the engine is not loaded: {self.logger.reason()}")
        names = {getattr(trt, name): name for name in TYPES if hasattr(trt, name)}
        self.tensors = {
            name: self._described(name, names)
            for name in map(self._engine.get_tensor_name, range(self._engine.num_io_tensors))
        }

    @property
    def scratch_bytes(self) -> int:
        """How much memory a call of any profile computes in."""
        return int(self._engine.device_memory_size_v2)

    def context(self, profile: int, scratch: int, stream: int) -> "LoadedContext":
        """Return a context of a profile that computes in the memory at `scratch`."""
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None or not context.set_optimization_profile_async(profile, stream):
            raise DeviceFailed(f"no context for profile {profile}: {self.logger.reason()}")
        context.set_device_memory(scratch, self.scratch_bytes)
        return LoadedContext(context, self.logger)

    def _described(self, name: str, names: dict[Any, str]) -> EngineTensor:
        engine, trt = self._engine, self.trt
        return EngineTensor(
            dtype=names[engine.get_tensor_dtype(name)],
            is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            on_host=engine.get_tensor_location(name) == trt.TensorLocation.HOST,
            varies=-1 in tuple(engine.get_tensor_shape(name)),
        )


class LoadedContext:
    """A context of either flavour."""

    def __init__(self, context: Any, logger: Any) -> None:
        self._context = context
        self._logger = logger

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Say the shape of an input that varies."""
        self._require(self._context.set_input_shape(name, shape), f"{name} {list(shape)}")

    def set_address(self, name: str, address: int) -> None:
        """Say where an input or output lies."""
        self._require(self._context.set_tensor_address(name, address), f"the address of {name}")

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape that an output will have, once every input is said."""
        missing = self._context.infer_shapes()
        if missing:
            raise DeviceFailed(f"sizes of {', '.join(missing)} are not known")
        return tuple(self._context.get_tensor_shape(name))

    def capturable(self, stream: int) -> bool:
        """Tell whether a call could be captured; TensorRT-RTX says so itself."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(stream))

    def enqueue(self, stream: int) -> None:
        """Queue a call."""
        self._require(self._context.execute_async_v3(stream), "the call")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise DeviceFailed(f"TensorRT refuses {what}: {self._logger.reason()}")
