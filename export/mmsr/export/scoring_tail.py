"""States -> the best rows: the nodes that follow the model in the sequence graph.

Two forms of the same answer. *Flat*: states times table, top K of each line. *Chunked*: table
times states, the best score of each chunk of rows, and the best K rows of the K best chunks, which
hold them. The table is read as it lies, where the flat form lays it out anew for more than one
request; and the top K looks at one number a chunk. Measured on a CPU, two threads, table as an
input, width 64: at a million rows the chunked form takes 1.0 times as long at batch 1, 0.5 times
at 8 and 0.7 times at 32; at 100,000 rows 1.4, 0.55 and 0.7 times; at 12,000 rows 2.5 (0.1 ms
more), 1.1 and 1.0 times. Which one a bundle gets is decided in `forms`.
"""

# B requests, D width, C bound rows (a multiple of the chunk), n rows of a chunk, G chunks,
# E excluded rows, K results

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from mmsr.engine.items import CHUNK
from mmsr.export.int8_scoring import STATES, TABLE, node

PREFIX = "score_"
BARRED = f"{PREFIX}barred"  # the one node that writes the exclusions into the scores


def append_scoring(path: Path, *, chunked: bool) -> None:
    """Complete a graph whose only output is `states`: inputs and outputs as in proto/README."""
    model = onnx.load(path)
    graph = model.graph
    [states] = graph.output
    width = states.type.tensor_type.shape.dim[1].dim_value
    inputs = (("excluded", ["B", "E"]), ("k", [1]))
    graph.input.extend(helper.make_tensor_value_info(n, TensorProto.INT64, s) for n, s in inputs)
    table = helper.make_tensor_value_info(TABLE, TensorProto.FLOAT, ["C", width])
    graph.input.append(table)
    graph.output.insert(0, helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["B", "K"]))
    graph.output.insert(0, helper.make_tensor_value_info("rows", TensorProto.INT64, ["B", "K"]))
    graph.node.extend(_chunked() if chunked else _flat())
    used = {name for n in graph.node for name in n.input}
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in _constants().items() if name in used
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _flat() -> Iterator[NodeProto]:
    """Scores [B, C] by the kernel that is fast for one request."""
    yield node("Gemm", [STATES, TABLE], f"{PREFIX}all", transB=1)
    yield from _bar("excluded", axis=1)
    yield _top(BARRED, "k", ["scores", "rows"])


def _chunked() -> Iterator[NodeProto]:
    """Scores [C, B], of which no pass is made but the largest of each chunk."""
    yield node("Gemm", [TABLE, STATES], f"{PREFIX}all", transB=1)
    yield node("Transpose", ["excluded"], f"{PREFIX}excluded_EB", perm=[1, 0])
    yield from _bar(f"{PREFIX}excluded_EB", axis=0)
    yield node("Shape", [STATES], f"{PREFIX}batch", start=0, end=1)
    yield node("Concat", [f"{PREFIX}chunk_shape", f"{PREFIX}batch"], f"{PREFIX}shape", axis=0)
    yield node("Reshape", [BARRED, f"{PREFIX}shape"], f"{PREFIX}chunks_GnB")
    yield node("ReduceMax", [f"{PREFIX}chunks_GnB", f"{PREFIX}one"], f"{PREFIX}best_GB", keepdims=0)
    yield node("Transpose", [f"{PREFIX}best_GB"], f"{PREFIX}best_BG", perm=[1, 0])
    yield node("Shape", [f"{PREFIX}best_BG"], f"{PREFIX}chunks", start=1, end=2)
    yield node("Min", ["k", f"{PREFIX}chunks"], f"{PREFIX}wanted")
    yield _top(f"{PREFIX}best_BG", f"{PREFIX}wanted", [f"{PREFIX}of_chunk", f"{PREFIX}chunk"])
    yield node("Mul", [f"{PREFIX}chunk", f"{PREFIX}chunk_rows"], f"{PREFIX}first")
    yield node("Unsqueeze", [f"{PREFIX}first", f"{PREFIX}two"], f"{PREFIX}first_BK1")
    yield node("Add", [f"{PREFIX}first_BK1", f"{PREFIX}places"], f"{PREFIX}rows_BKn")
    yield node("Reshape", [f"{PREFIX}rows_BKn", f"{PREFIX}line"], f"{PREFIX}rows")
    yield node("Transpose", [f"{PREFIX}rows"], f"{PREFIX}rows_T", perm=[1, 0])
    yield node("GatherElements", [BARRED, f"{PREFIX}rows_T"], f"{PREFIX}candidates_T", axis=0)
    yield node("Transpose", [f"{PREFIX}candidates_T"], f"{PREFIX}candidates", perm=[1, 0])
    yield _top(f"{PREFIX}candidates", "k", ["scores", f"{PREFIX}place"])
    yield node("GatherElements", [f"{PREFIX}rows", f"{PREFIX}place"], "rows", axis=1)


def _bar(excluded: str, *, axis: int) -> Iterator[NodeProto]:
    """Write -inf into the scores of what is excluded; ONNX Runtime does it in place."""
    yield node("Shape", [excluded], f"{PREFIX}excluded_shape")
    yield node("Expand", [f"{PREFIX}never", f"{PREFIX}excluded_shape"], f"{PREFIX}nevers")
    yield node("ScatterElements", [f"{PREFIX}all", excluded, f"{PREFIX}nevers"], BARRED, axis=axis)


def _top(scores: str, k: str, outputs: Sequence[str]) -> NodeProto:
    return helper.make_node("TopK", [scores, k], list(outputs), name=outputs[0], axis=1)


def _constants() -> dict[str, npt.NDArray[Any]]:
    values: dict[str, npt.NDArray[Any]] = {
        "never": np.array([-np.inf], np.float32),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "chunk_shape": np.array([-1, CHUNK], np.int64),
        "chunk_rows": np.array(CHUNK, np.int64),
        "places": np.arange(CHUNK, dtype=np.int64)[None, None],
        "line": np.array([0, -1], np.int64),
    }
    return {f"{PREFIX}{name}": array for name, array in values.items()}
