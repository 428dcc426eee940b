"""Counts and times of the Open Inference Protocol's models. Pure arithmetic; owns no clock."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mmsr.oip import inference_pb2 as pb


class RowTimes(NamedTuple):
    """How one row of a request was computed."""

    queue_us: int
    compute_us: int
    batch_size: int  # 0: nothing was computed


class RequestTimes(NamedTuple):
    """How long a request that succeeded took."""

    total_ns: int  # from its arrival to its answer
    input_ns: int  # its tensors to what the model reads
    output_ns: int  # the other way round
    rows: Sequence[RowTimes]


class _Sum:
    """How often, and how long in all."""

    __slots__ = ("count", "ns")

    def __init__(self) -> None:
        self.count = 0.0
        self.ns = 0.0

    def add(self, ns: float, count: float = 1.0) -> None:
        self.count += count
        self.ns += ns

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=round(self.count), ns=round(self.ns))


@dataclass(kw_only=True)
class ModelTotals:
    """What one model has done since the start.

    A batch holds rows of several requests, also of calls of the other service. Each row counts its
    share of the batch that it rode in; where all rows of a batch come this way, the shares are one.
    """

    rows: int = 0
    last_ms: int = 0  # when the last request was answered, since 1970
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    queue: _Sum = field(default_factory=_Sum)
    compute_input: _Sum = field(default_factory=_Sum)
    compute_infer: _Sum = field(default_factory=_Sum)
    compute_output: _Sum = field(default_factory=_Sum)
    batches: defaultdict[int, _Sum] = field(default_factory=lambda: defaultdict(_Sum))

    def succeeded(self, times: RequestTimes, now_ms: int) -> None:
        """Count a request; it waited and was computed as long as its last row."""
        self.last_ms = now_ms
        self.rows += len(times.rows)
        last = max(times.rows, key=lambda row: row.queue_us + row.compute_us)
        self.success.add(times.total_ns)
        self.queue.add(1e3 * last.queue_us)
        self.compute_input.add(times.input_ns)
        self.compute_infer.add(1e3 * last.compute_us)
        self.compute_output.add(times.output_ns)
        for row in times.rows:
            if row.batch_size:
                share = 1 / row.batch_size
                self.batches[row.batch_size].add(1e3 * row.compute_us * share, share)

    def failed(self, total_ns: int) -> None:
        """Count a request that ended in an error."""
        self.fail.add(total_ns)

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """Return the totals as the protocol says them."""
        nothing = pb.StatisticDuration()
        return pb.ModelStatistics(
            name=name,
            version=version,
            last_inference=self.last_ms,
            inference_count=self.rows,
            execution_count=round(sum(batch.count for batch in self.batches.values())),
            inference_stats=pb.InferStatistics(
                success=self.success.message(),
                fail=self.fail.message(),
                queue=self.queue.message(),
                compute_input=self.compute_input.message(),
                compute_infer=self.compute_infer.message(),
                compute_output=self.compute_output.message(),
                cache_hit=nothing,
                cache_miss=nothing,
            ),
            batch_stats=[
                pb.InferBatchStatistics(batch_size=size, compute_infer=batch.message())
                for size, batch in sorted(self.batches.items())
            ],
        )
