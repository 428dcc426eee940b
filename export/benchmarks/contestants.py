"""The same request answered in several ways: histories in, the best K rows out.

Naive is the training module as it stands: every position through every block, its own tables as
constants, then the last position, scores and top K. The others are what MMSR exports.
"""

# B batch, L history length, N items, C table rows, K results, D width, W input columns

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from torch import Tensor, nn

from mmsr.engine.items import bound_rows
from mmsr.engine.probe_answers import outside
from mmsr.engine.runners.onnx import open_onnx
from mmsr.export.convert import convert_sequence
from mmsr.export.folding import RowFolder
from mmsr.export.forms import decide_form
from mmsr.export.onnx_file import Port, convert
from mmsr.training.config import ModelConfig
from mmsr.training.model import SequentialRecommender, catalogue_scores, last_states

Rows = npt.NDArray[np.int64]
Answer = Callable[[Rows], Rows]
FEATURES = {"image": 512, "text": 384, "category": 40}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is measured."""

    items: int = 12_000
    width: int = 64
    blocks: int = 2
    length: int = 50
    k: int = 20
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Model:
    """An untrained model with random tables: the time does not depend on the values."""

    shape: Shape
    model: SequentialRecommender
    inputs_CW: Tensor
    outputs_CD: Tensor


class Naive(nn.Module):
    """The training module, read to the last position."""

    def __init__(self, made: Model) -> None:
        super().__init__()
        self.model, self.k = made.model, made.shape.k
        self.register_buffer("inputs_CW", made.inputs_CW)
        self.register_buffer("outputs_CD", made.outputs_CD)

    def forward(self, history: Tensor) -> Tensor:
        """Return the rows [B, K] of histories [B, L] right-padded with row 0."""
        state_BD = last_states(self.model(self.inputs_CW, history), (history > 0).sum(1))
        scores_BC = catalogue_scores(state_BD, self.outputs_CD)  # type: ignore[arg-type]
        scores_BC[:, 0] = -torch.inf
        return scores_BC.topk(self.k, dim=1).indices


class Scores(nn.Module):
    """Scores and top K of states [B, D] alone, with a table [C, D] of its own or given."""

    def __init__(self, k: int, table_CD: Tensor | None) -> None:
        super().__init__()
        self.k, self.table_CD = k, table_CD

    def forward(self, state: Tensor, table: Tensor | None = None) -> Tensor:
        """Return the rows [B, K]."""
        table = self.table_CD if table is None else table
        assert table is not None
        return (state @ table.T).topk(self.k, dim=1).indices


def make_model(shape: Shape) -> Model:
    """Return a model with all five sources."""
    torch.manual_seed(shape.seed)
    config = ModelConfig(
        width=shape.width,
        side_width=shape.width,
        blocks=shape.blocks,
        feedforward_width=2 * shape.width,
        max_length=shape.length,
    )
    # The id table is left tiny: the graphs read the tables that are bound to them.
    model = SequentialRecommender(config, 1, FEATURES).eval()
    columns = shape.width * (1 + len(config.modalities))
    inputs_CW = torch.randn(shape.items + 1, columns)
    outputs_CD = torch.randn(shape.items + 1, shape.width)
    inputs_CW[0], outputs_CD[0] = 0, 0
    return Model(shape=shape, model=model, inputs_CW=inputs_CW, outputs_CD=outputs_CD)


def eager(made: Model) -> Answer:
    """PyTorch as it stands."""
    return _torch_answer(Naive(made))


def compiled(made: Model) -> Answer:
    """`torch.compile`, for each batch size anew."""
    return _torch_answer(torch.compile(Naive(made), dynamic=False))


def onnx_naive(made: Model, folder: Path) -> Answer:
    """ONNX Runtime on the naive export."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = made.shape.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(
        _export_naive(made, folder), options, providers=["CPUExecutionProvider"]
    )

    def answer(history_BL: Rows) -> Rows:
        rows: Rows = session.run(None, {"history": history_BL})[0]
        return rows

    return answer


def openvino_naive(made: Model, folder: Path) -> Answer:
    """OpenVINO on the naive export; `ImportError` where it is not installed."""
    request = _openvino_request(Path(_export_naive(made, folder)), made.shape.threads)

    def answer(history_BL: Rows) -> Rows:
        rows: Rows = np.array(request.infer({"history": history_BL})[0])
        return rows

    return answer


def exported(made: Model, folder: Path, folded: bool) -> Answer:
    """MMSR's graph by its own runner, tables bound once."""
    path = folder / f"sequence-{folded}.onnx"
    form = decide_form(bound_rows(made.shape.items))
    spec = convert_sequence(made.model, path, folded=folded, chunked=form.chunked)
    runner = open_onnx(path, spec, threads=made.shape.threads)
    for name, table in _bound(made, folded).items():
        runner.bind(name, table)

    def answer(history_BL: Rows) -> Rows:
        rows: Rows = runner.run(_request(made, history_BL))["rows"]
        return rows

    return answer


def exported_openvino(made: Model, folder: Path, folded: bool) -> Answer:
    """MMSR's graph by OpenVINO; `ImportError` where it is not installed."""
    path = folder / f"sequence-openvino-{folded}.onnx"
    form = decide_form(bound_rows(made.shape.items))
    convert_sequence(made.model, path, folded=folded, chunked=form.chunked)
    request = _openvino_request(path, made.shape.threads)
    import openvino  # type: ignore[import-not-found]

    bound = _bound(made, folded)
    # The tensors read the arrays' memory and do not keep them alive: `answer` does.
    for name, array in bound.items():
        request.set_tensor(name, openvino.Tensor(array, shared_memory=True))

    def answer(history_BL: Rows) -> Rows:
        assert bound
        found = request.infer(_request(made, history_BL))
        rows: Rows = np.array(found["rows"])
        return rows

    return answer


def bare(made: Model, folder: Path, constant: bool) -> Answer:
    """Nothing but scores and top K of one state: what no exact engine can do without."""
    table_CD = made.outputs_CD
    module = Scores(made.shape.k, table_CD if constant else None)
    width, path = made.shape.width, folder / f"bare-{constant}.onnx"
    ports = [Port(name="state", example=torch.zeros(2, width), dynamic={0: "B"})]
    if not constant:
        ports.append(Port(name="table", example=torch.zeros(25, width), dynamic={0: "C"}))
    convert(module, ports, ["rows"], path)
    session = _session(path, made.shape.threads)
    binding = session.io_binding()
    if not constant:
        binding.bind_ortvalue_input("table", ort.OrtValue.ortvalue_from_numpy(table_CD.numpy()))

    def answer(history_BL: Rows) -> Rows:
        state_BD = made.outputs_CD[1 : len(history_BL) + 1].numpy()
        binding.bind_cpu_input("state", state_BD)
        binding.bind_output("rows")
        session.run_with_iobinding(binding)
        rows: Rows = binding.copy_outputs_to_cpu()[0]
        return rows

    return answer


def _torch_answer(module: Any) -> Answer:
    def answer(history_BL: Rows) -> Rows:
        with torch.inference_mode():
            rows: Rows = module(torch.from_numpy(history_BL)).numpy()
            return rows

    return answer


def _export_naive(made: Model, folder: Path) -> str:
    path = folder / "naive.onnx"
    if not path.exists():
        example = torch.ones(2, 3, dtype=torch.int64)
        most = {1: made.shape.length}
        port = Port(name="history", example=example, dynamic={0: "B", 1: "L"}, most=most)
        convert(Naive(made), [port], ["rows"], path)
    return str(path)


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _openvino_request(path: Path, threads: int) -> Any:
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # by itself it takes bf16 where the processor has it
    }
    return openvino.Core().compile_model(str(path), "CPU", settings).create_infer_request()


def _bound(made: Model, folded: bool) -> dict[str, Any]:
    rows_CT = made.inputs_CW
    if folded:
        with torch.no_grad():
            rows_CT = RowFolder(made.model)(rows_CT)
    spare = bound_rows(made.shape.items) - len(made.outputs_CD)
    return {
        "item_inputs": rows_CT.numpy(),
        "item_outputs": np.pad(made.outputs_CD.numpy(), ((0, spare), (0, 0))),
    }


def _request(made: Model, history_BL: Rows) -> dict[str, Rows]:
    batch = len(history_BL)
    return {
        "history": history_BL,
        "length": (history_BL > 0).sum(1),
        "excluded": outside(batch, made.shape.items),
        "k": np.array([made.shape.k], np.int64),
    }
