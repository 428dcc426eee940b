"""OpenTelemetry spans of calls: the call, its wait in the queue, the computation it rode in.

Needs the extra `otel`. A span is made when its call has ended, from the times that the answer
carries, so that a call pays nothing while it is under way; of a stream there is the call alone.
Queue and computation are laid from the arrival on, one after the other.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mmsr.engine.rpc import Call, Outcome, request_id_of

SERVICE = "mmsr-serve"
CLOSE_S = 1.0
# What the server is to be blamed for; the others are the caller's (OpenTelemetry's convention).
SERVERS_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
Attributes = dict[str, str | int]


class Tracing:
    """The meter that makes spans, of the calls that are sampled.

    A caller's own decision (W3C `traceparent`) holds; `ratio` decides for calls without one.
    """

    reads_metadata = True

    def __init__(self, exporter: SpanExporter, ratio: float, version: str) -> None:
        resource = Resource.create({"service.name": SERVICE, "service.version": version})
        sampler = ParentBased(TraceIdRatioBased(ratio))
        self._provider = TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("mmsr.engine", version)
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Export what is left, if the collector takes it in time: nobody waits for traces."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(CLOSE_S)

    def began(self, method: str) -> None:
        """Do nothing yet."""

    def streamed(self, call: Call, request: Message | None, response: Message) -> None:
        """Do nothing yet."""

    def ended(self, call: Call, outcome: Outcome) -> None:
        """Make the spans of a call that has ended."""
        end_ns = time.time_ns()
        start_ns = end_ns - round(1e9 * outcome.seconds)
        span = self._tracer.start_span(
            call.method,
            context=self._propagator.extract(_texts(call.metadata)),
            kind=trace.SpanKind.SERVER,
            start_time=start_ns,
        )
        if not span.is_recording():
            return
        span.set_attributes(attributes_of(call, outcome))
        if outcome.code in SERVERS_FAULT:
            span.set_status(trace.StatusCode.ERROR)
        self._parts(trace.set_span_in_context(span), start_ns, outcome.response)
        span.end(end_ns)

    def _parts(self, parent: Any, start_ns: int, response: Any) -> None:
        ride = slowest(response)
        if ride is None:
            return
        for name, spent_us in (("queue", ride.queue_us), ("compute", ride.compute_us)):
            part = self._tracer.start_span(name, context=parent, start_time=start_ns)
            if name == "compute":
                part.set_attribute("mmsr.batch_size", ride.batch_size)
            start_ns += 1000 * spent_us
            part.end(start_ns)


def start_tracing(endpoint: str, ratio: float, version: str) -> Tracing:
    """Return the meter whose spans go to a collector (OTLP over gRPC).

    "http://HOST:PORT" or HOST:PORT is not encrypted, "https://HOST:PORT" is.
    """
    insecure = not endpoint.startswith("https://")
    return Tracing(OTLPSpanExporter(endpoint=endpoint, insecure=insecure), ratio, version)


def attributes_of(call: Call, outcome: Outcome) -> Attributes:
    """Return what a span says of a call; nothing of what it asks."""
    service, _, method = call.method.partition("/")
    found: Attributes = {
        "rpc.system": "grpc",
        "rpc.service": service,
        "rpc.method": method,
        "rpc.grpc.status_code": int(grpc.StatusCode[outcome.code].value[0]),
        "mmsr.client": call.client,
        "mmsr.request_id": request_id_of(call.metadata),
        "mmsr.model_version": getattr(outcome.response, "model_version", ""),
    }
    if outcome.error is not None:
        found["error.type"] = type(outcome.error).__name__
    return {name: value for name, value in found.items() if value != ""}


def slowest(response: Any) -> Any:
    """Return the answer within a response that was computed and took longest, or None."""
    return max(_rides(response), key=lambda ride: ride.queue_us + ride.compute_us, default=None)


def _rides(response: Any) -> Iterator[Any]:
    fields = {} if response is None else response.DESCRIPTOR.fields_by_name
    if "results" in fields:
        for result in response.results:
            yield from _rides(result.response)
    elif "batch_size" in fields and response.batch_size:
        yield response


def _texts(metadata: Mapping[str, str | bytes]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if isinstance(value, str)}
