"""Everybody who answers requests in the latency table, each with its memory in place.

Knows PyTorch, ONNX Runtime and TensorRT; times nothing.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.gpu.engine_run import EngineRun
from benchmarks.gpu.graphs import SequenceFile
from benchmarks.gpu.setting import K, SectionSkippedError, Setting
from benchmarks.gpu.shop import Tables, make_model, request
from benchmarks.gpu.timing import Prepared, captured
from mmsr.training.model import last_states

ERRORS_ONLY = 3  # ONNX Runtime's log level


class Contestant(Protocol):
    """Answers requests on one set of tables."""

    form: str  # what it computes: the graph's forms, or the training model
    dtype: torch.dtype  # of the tables
    folded_by: int | None  # seed of the weights in the rows that it reads; None: they are plain

    def prepare(self, tables: Tables, batch: int) -> Prepared:
        """Bind tables and make the memory of one batch size."""


class Naive(nn.Module):
    """The training model as it stands: every position computed, then top K."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        history: Tensor,
        length: Tensor,
        inputs_RW: Tensor,
        outputs_CD: Tensor,
        bias_SC: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return rows and scores [B, K]."""
        state_BD = last_states(self.model(inputs_RW, history), length)
        scores_BK, rows_BK = (state_BD @ outputs_CD.T + bias_SC[0]).topk(K, dim=1)
        return rows_BK, scores_BK


class Torch:
    """PyTorch: eager, compiled, or eager replayed as a CUDA graph. fp16 on a GPU."""

    form = "training model, plain rows"
    folded_by: int | None = None

    def __init__(self, setting: Setting, how: str) -> None:
        if how == "graphed" and not setting.cuda:
            raise SectionSkippedError("CUDA graphs need CUDA")
        if how == "compiled" and setting.quick:
            raise SectionSkippedError("torch.compile takes longer than a quick run")
        self.setting, self.how = setting, how
        self.dtype = torch.float16 if setting.cuda else torch.float32
        module = Naive(make_model(setting, 0).to(setting.device, self.dtype))
        self.module = torch.compile(module) if how == "compiled" else module

    def prepare(self, tables: Tables, batch: int) -> Prepared:
        """Bind tables and make the memory of one batch size."""
        everything = request(self.setting, tables.items, batch)
        inputs = {name: everything[name] for name in ("history", "length")}
        found: list[tuple[Tensor, Tensor]] = []

        def launch() -> None:
            with torch.inference_mode():
                answer = self.module(
                    *inputs.values(), tables.inputs_RW, tables.outputs_CD, tables.bias_SC
                )
            found[:] = [answer]

        run = captured(launch) if self.how == "graphed" else launch
        return Prepared(inputs=inputs, launch=run, outputs=lambda: found[0])


class OnnxRuntime:
    """ONNX Runtime with every tensor bound by address, on the stream that is timed."""

    def __init__(self, setting: Setting, graph: SequenceFile, graphed: bool) -> None:
        import onnxruntime as ort

        if graphed and not setting.cuda:
            raise SectionSkippedError("CUDA graphs need CUDA")
        self.setting, self.form, self.folded_by = setting, graph.form, graph.folded_by
        self.dtype = torch.float16 if graph.half else torch.float32
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        providers: list[Any] = ["CPUExecutionProvider"]
        if setting.cuda:
            stream = torch.cuda.current_stream().cuda_stream
            cuda = {"user_compute_stream": str(stream), "enable_cuda_graph": str(int(graphed))}
            providers.insert(0, ("CUDAExecutionProvider", cuda))
        self.session = ort.InferenceSession(str(graph.path), options, providers=providers)
        self.ran_by = self.session.get_providers()[0]
        self.calls = 0
        if setting.cuda and self.ran_by != "CUDAExecutionProvider":
            raise SectionSkippedError(
                f"onnxruntime {ort.__version__} here runs on {self.ran_by}: its CUDA part is not "
                "installed or does not load"
            )

    def prepare(self, tables: Tables, batch: int) -> Prepared:
        """Bind tables and make the memory of one batch size."""
        import onnxruntime as ort

        device = self.setting.device
        inputs = request(self.setting, tables.items, batch)
        rows = torch.empty(batch, K, dtype=torch.int64, device=device)
        scores = torch.empty(batch, K, dtype=torch.float32, device=device)
        k = np.array([K], np.int64)
        binding = self.session.io_binding()
        fixed = {
            "item_inputs": tables.inputs_RW,
            "item_outputs": tables.outputs_CD,
        }
        for name, tensor in {**inputs, **fixed}.items():
            binding.bind_input(
                name, device, 0, _numpy_type(tensor), tensor.shape, tensor.data_ptr()
            )
        binding.bind_cpu_input("k", k)
        states = torch.empty(batch, self.setting.width, dtype=torch.float32, device=device)
        for name, tensor in {"rows": rows, "scores": scores, "states": states}.items():
            binding.bind_output(
                name, device, 0, _numpy_type(tensor), tensor.shape, tensor.data_ptr()
            )

        # A CUDA graph is replayed whatever is bound: each shape has a number of its own.
        self.calls += 1
        how = ort.RunOptions()
        how.add_run_config_entry("gpu_graph_id", str(self.calls))

        def launch() -> None:
            self.session.run_with_iobinding(binding, how)

        # The session knows addresses alone: whoever has the call keeps their memory alive.
        return Prepared(
            inputs=inputs,
            launch=launch,
            outputs=lambda: (rows, scores),
            holds={**fixed, "states": states},
        )


class TensorRT:
    """An engine, its context's launch replayed as a CUDA graph where that can be captured."""

    dtype = torch.float16

    def __init__(
        self,
        setting: Setting,
        run: EngineRun,
        graph: SequenceFile,
        profile_of: Callable[[int], int],
    ) -> None:
        self.setting, self.run, self.profile_of = setting, run, profile_of
        self.form, self.folded_by = graph.form, graph.folded_by

    def prepare(self, tables: Tables, batch: int) -> Prepared:
        """Bind tables and make the memory of one batch size."""
        inputs = request(self.setting, tables.items, batch)
        fixed = {
            "item_inputs": tables.inputs_RW,
            "item_outputs": tables.outputs_CD,
            "k": torch.tensor([K]),
        }
        call = self.run.prepare({**inputs, **fixed}, self.profile_of(batch))
        launch = captured(call.launch)
        return Prepared(
            inputs=inputs,
            launch=launch,
            outputs=lambda: (call.outputs["rows"], call.outputs["scores"]),
        )


def _numpy_type(tensor: Tensor) -> Any:
    return np.dtype(str(tensor.dtype).removeprefix("torch.")).type
