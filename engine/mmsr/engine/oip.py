"""`inference.GRPCInferenceService`, the Open Inference Protocol, over gRPC: translates messages.

Its models are those of the bundle that answers now: `recommender`, and the encoders that the bundle
has. A request may name a label of the repository in its parameter `label`. The version is always
"1", as clients expect a number; which bundle answered is in the parameter `bundle`.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message

from mmsr.engine.deployment import Deployment
from mmsr.engine.errors import EngineError, InvalidRequest, UnknownModel
from mmsr.engine.oip_encoding import Encoding
from mmsr.engine.oip_models import (
    RECOMMENDER,
    Answered,
    Asked,
    InferenceModel,
    RecommenderModel,
)
from mmsr.engine.oip_statistics import ModelTotals, RequestTimes
from mmsr.engine.oip_tensors import (
    BYTES,
    TensorKind,
    add_output,
    read_inputs,
    wanted_outputs,
)
from mmsr.engine.rpc import Call, Rpc, Unary, register
from mmsr.engine.serving import Serving
from mmsr.oip import inference_pb2 as pb
from mmsr.oip import model_config_pb2 as config_pb

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
SERVER = "mmsr"
MODEL_VERSION = "1"
PLATFORM = "mmsr"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "parameters", "statistics")
MAX_ROWS = 1024  # of one request to `recommender`
LABEL, EXCLUDE_SEEN, TIMEOUT = "label", "exclude_seen", "timeout"


class InferenceFace:
    """The methods of the Open Inference Protocol."""

    name = SERVICE_NAME

    def __init__(self, serving: Serving, clock: Callable[[], float]) -> None:
        self._serving = serving
        self._clock = clock
        self._totals: defaultdict[str, ModelTotals] = defaultdict(ModelTotals)
        self.encoding = Encoding(clock)

    def add_to(self, server: grpc.aio.Server, rpc: Rpc) -> None:
        """Register with a server that has not started."""
        prefix, unary = f"{self.name}/", rpc.unary
        handlers = {
            name: unary(prefix + name, request_type, answer)
            for name, request_type, answer in self._methods()
        }
        register(server, self.name, handlers)

    def _methods(self) -> Iterator[tuple[str, type[Message], Unary[Any, Any]]]:
        yield "ServerLive", pb.ServerLiveRequest, self.server_live
        yield "ServerReady", pb.ServerReadyRequest, self.server_ready
        yield "ModelReady", pb.ModelReadyRequest, self.model_ready
        yield "ServerMetadata", pb.ServerMetadataRequest, self.server_metadata
        yield "ModelMetadata", pb.ModelMetadataRequest, self.model_metadata
        yield "ModelInfer", pb.ModelInferRequest, self.model_infer
        yield "ModelConfig", pb.ModelConfigRequest, self.model_config
        yield "ModelStatistics", pb.ModelStatisticsRequest, self.model_statistics
        yield "RepositoryIndex", pb.RepositoryIndexRequest, self.repository_index

    async def server_live(self, request: pb.ServerLiveRequest, call: Call) -> pb.ServerLiveResponse:
        """Whoever reads the answer knows it already."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(
        self, request: pb.ServerReadyRequest, call: Call
    ) -> pb.ServerReadyResponse:
        """Say whether requests are answered now."""
        return pb.ServerReadyResponse(ready=self._ready())

    async def model_ready(self, request: pb.ModelReadyRequest, call: Call) -> pb.ModelReadyResponse:
        """Say whether requests to a model are answered now; as with Triton, never an error."""
        ready = self._ready() and request.name in self._names() and known(request.version)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, call: Call
    ) -> pb.ServerMetadataResponse:
        """Say what the server is."""
        return pb.ServerMetadataResponse(
            name=SERVER, version=version("mmsr"), extensions=EXTENSIONS
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, call: Call
    ) -> pb.ModelMetadataResponse:
        """Describe a model's tensors, with the batch dimension."""
        model, _ = self._model(request.name, request.version)
        return pb.ModelMetadataResponse(
            name=request.name,
            versions=[MODEL_VERSION],
            platform=PLATFORM,
            inputs=[described(kind) for kind in model.inputs],
            outputs=[described(kind) for kind in model.outputs],
        )

    async def model_config(
        self, request: pb.ModelConfigRequest, call: Call
    ) -> pb.ModelConfigResponse:
        """Describe a model as Triton's configuration files do."""
        model, deployment = self._model(request.name, request.version)
        return pb.ModelConfigResponse(
            config=config_of(request.name, model, deployment.model.version)
        )

    async def model_statistics(
        self, request: pb.ModelStatisticsRequest, call: Call
    ) -> pb.ModelStatisticsResponse:
        """Say what has been computed since the start; no name: of every model."""
        if request.name:
            self._model(request.name, request.version)
        names = [request.name] if request.name else self._names()
        return pb.ModelStatisticsResponse(
            model_stats=[self._totals[name].message(name, MODEL_VERSION) for name in names]
        )

    async def repository_index(
        self, request: pb.RepositoryIndexRequest, call: Call
    ) -> pb.RepositoryIndexResponse:
        """List the models; none while the server starts or stops."""
        names = self._names() if self._ready() else []
        index = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[index(name=name, version=MODEL_VERSION, state="READY") for name in names]
        )

    async def model_infer(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelInferResponse:
        """Answer one request."""
        began = time.perf_counter_ns()
        options = options_of(request, call)
        model, deployment = self._model(request.model_name, request.model_version, options.label)
        totals = self._totals[request.model_name]
        with counted(totals, began):
            outputs = wanted_outputs(request, model.outputs)
            inputs = read_inputs(request, model.inputs, model.max_rows)
            read = time.perf_counter_ns()
            answered = await model.infer(Asked(inputs, options.deadline, options.exclude_seen))
            computed = time.perf_counter_ns()
            response = response_of(request, answered, outputs)
            response.parameters["bundle"].string_param = deployment.model.version
            ended = time.perf_counter_ns()
        times = RequestTimes(ended - began, read - began, ended - computed, answered.rows)
        totals.succeeded(times, now_ms=time.time_ns() // 1_000_000)
        return response

    def _ready(self) -> bool:
        try:
            self._serving.deployment()
        except EngineError:
            return False
        return True

    def _names(self) -> list[str]:
        """Return the models of the bundle that answers now."""
        return [RECOMMENDER, *self._serving.deployment().model.encoders]

    def _model(
        self, name: str, model_version: str, label: str = ""
    ) -> tuple[InferenceModel, Deployment]:
        """Return the model and what answers for it.

        `UnknownModel`, and what `Serving.deployment` raises.
        """
        deployment = self._serving.deployment(label)
        if not known(model_version):
            raise UnknownModel(
                f"Request for unknown model: '{name}' version {model_version} is not found; the "
                f"version here is {MODEL_VERSION}"
            )
        if name == RECOMMENDER:
            return RecommenderModel(deployment.service, MAX_ROWS), deployment
        if name in deployment.model.encoders:
            return self.encoding.model(name, deployment.model), deployment
        have = ", ".join([RECOMMENDER, *deployment.model.encoders])
        raise UnknownModel(
            f"Request for unknown model: '{name}' is not found; the models here are {have}"
        )


class Options(NamedTuple):
    """What a request asks for in its parameters."""

    label: str
    exclude_seen: bool | None  # None: the bundle's default
    deadline: float | None  # of the server's clock


def options_of(request: pb.ModelInferRequest, call: Call) -> Options:
    """Return the request's parameters; those that are not known are passed over, as by Triton."""
    if not request.parameters:
        return Options("", None, call.deadline)
    deadline = call.deadline
    timeout_us: int | None = parameter(request, TIMEOUT, "int64_param")
    if timeout_us:
        ends = call.arrived + timeout_us / 1e6
        deadline = ends if deadline is None else min(ends, deadline)
    return Options(
        parameter(request, LABEL, "string_param") or "",
        parameter(request, EXCLUDE_SEEN, "bool_param"),
        deadline,
    )


def parameter(request: pb.ModelInferRequest, name: str, kind: str) -> Any:
    """Return a parameter's value, None without one; `InvalidRequest` if it has another type."""
    if name not in request.parameters:
        return None
    value = request.parameters[name]
    found = value.WhichOneof("parameter_choice")
    if found != kind:
        raise InvalidRequest(f"parameter '{name}' is sent as {found}; expected {kind}")
    return getattr(value, kind)


@contextmanager
def counted(totals: ModelTotals, began_ns: int) -> Iterator[None]:
    """Count what ends in an error."""
    try:
        yield
    except EngineError:
        totals.failed(time.perf_counter_ns() - began_ns)
        raise


def response_of(
    request: pb.ModelInferRequest, answered: Answered, outputs: list[TensorKind]
) -> pb.ModelInferResponse:
    """Return the answer, raw where the question was."""
    response = pb.ModelInferResponse(
        model_name=request.model_name, model_version=MODEL_VERSION, id=request.id
    )
    raw = len(request.raw_input_contents) > 0
    for kind in outputs:
        add_output(response, kind, answered.outputs[kind.name], raw=raw)
    return response


def known(model_version: str) -> bool:
    """Tell whether a request for this version can be answered."""
    return model_version in ("", MODEL_VERSION)


def described(kind: TensorKind) -> pb.ModelMetadataResponse.TensorMetadata:
    """Return a tensor as the metadata say it."""
    return pb.ModelMetadataResponse.TensorMetadata(
        name=kind.name, datatype=kind.datatype, shape=kind.shape
    )


def config_of(name: str, model: InferenceModel, bundle: str) -> config_pb.ModelConfig:
    """Return a model's configuration; its tensors are without the batch dimension."""
    config = config_pb.ModelConfig(
        name=name, platform=PLATFORM, backend=PLATFORM, max_batch_size=model.max_rows
    )
    config.dynamic_batching.preserve_ordering = False
    config.parameters["bundle"].string_value = bundle
    for kind in model.inputs:
        config.input.add(name=kind.name, data_type=data_type(kind), dims=kind.shape[1:])
    for kind in model.outputs:
        config.output.add(name=kind.name, data_type=data_type(kind), dims=kind.shape[1:])
    return config


def data_type(kind: TensorKind) -> config_pb.DataType.ValueType:
    """Return the configuration's name of a datatype."""
    name = "STRING" if kind.datatype == BYTES else kind.datatype
    return config_pb.DataType.Value(f"TYPE_{name}")
