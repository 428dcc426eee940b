"""Runs a serialized engine of TensorRT or TensorRT-RTX on PyTorch's memory and stream."""

# Not used for serving: that is a runner of mmsr.engine, which has no torch.

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmsr.engine.runners.tensorrt_engine import make_logger
from mmsr.export.tensorrt.flavour import Flavour


class EngineRunError(RuntimeError):
    """TensorRT refuses an engine or a call; the text is its own reason."""


@dataclass(frozen=True, kw_only=True)
class EngineCall:
    """One call with its memory in place."""

    launch: Callable[[], None]
    outputs: dict[str, Tensor]


class EngineRun:
    """A loaded engine."""

    def __init__(self, plan: bytes, flavour: Flavour) -> None:
        self.trt, self.logger = flavour.module, make_logger(flavour.module)
        self.runtime = self.trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise EngineRunError(
                f"{flavour.name} {flavour.version} does not load the engine on "
                f"{torch.cuda.get_device_name()}: {self.logger.reason()}"
            )
        trt = self.trt
        self.types = {
            trt.int64: torch.int64,
            trt.int32: torch.int32,
            trt.float32: torch.float32,
            trt.float16: torch.float16,
            trt.bool: torch.bool,
            trt.uint8: torch.uint8,
        }

    def prepare(self, inputs: Mapping[str, Tensor], profile: int) -> EngineCall:
        """Bind inputs by address and make the outputs; sizes are read from the host's memory."""
        context = self.engine.create_execution_context()
        if context is None:
            raise EngineRunError(f"no execution context: {self.logger.reason()}")
        stream = torch.cuda.current_stream().cuda_stream
        if not context.set_optimization_profile_async(profile, stream):
            raise EngineRunError(f"profile {profile}: {self.logger.reason()}")
        held = {name: self._placed(name, tensor) for name, tensor in inputs.items()}
        for name, tensor in held.items():
            varies = -1 in tuple(self.engine.get_tensor_shape(name))
            if varies and not context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineRunError(f"{name} {list(tensor.shape)}: {self.logger.reason()}")
            context.set_tensor_address(name, tensor.data_ptr())
        outputs = self._outputs(context)

        def launch() -> None:
            # `held` is used here so that the bound memory lives as long as the call.
            if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
                raise EngineRunError(f"{sorted(held)}: {self.logger.reason()}")

        return EngineCall(launch=launch, outputs=outputs)

    def _placed(self, name: str, tensor: Tensor) -> Tensor:
        on_host = self.engine.get_tensor_location(name) == self.trt.TensorLocation.HOST
        return tensor.to("cpu" if on_host else "cuda").contiguous()

    def _outputs(self, context: Any) -> dict[str, Tensor]:
        missing = context.infer_shapes()
        if missing:
            raise EngineRunError(f"sizes of {', '.join(missing)} are not known")
        outputs = {}
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            if self.engine.get_tensor_mode(name) != self.trt.TensorIOMode.OUTPUT:
                continue
            shape = tuple(context.get_tensor_shape(name))
            dtype = self.types[self.engine.get_tensor_dtype(name)]
            outputs[name] = torch.empty(shape, dtype=dtype, device="cuda")
            context.set_tensor_address(name, outputs[name].data_ptr())
        return outputs
