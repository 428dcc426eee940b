"""Section "top-20": exact top K of one big table against what its memory allows.

One stage sorts whole rows of scores; two stages take the best of every chunk, then the best of
those: the same answer, more of the machine at work.
"""

# B states, N rows, D width, K results, G chunks

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.engine_run import EngineRun
from benchmarks.gpu.setting import Findings, K, Setting
from benchmarks.gpu.timing import Prepared, captured, copy_rate_bytes_per_s, measure

WIDTH = 128
CHUNKS = (0, 100, 1000)  # 0: one stage
QUICK_CHUNKS = (0, 100)
Call = Callable[[Tensor], tuple[Tensor, Tensor]]


def top_k(setting: Setting, findings: Findings) -> None:
    """Time every way at every batch; the floor is the table's bytes over the copy rate."""
    rows = 10_000 if setting.quick else 1_000_000
    dtype = torch.float16 if setting.cuda else torch.float32
    random = torch.Generator(setting.device).manual_seed(0)
    table_ND = torch.randn(rows, WIDTH, generator=random, device=setting.device).to(dtype)
    rate = copy_rate_bytes_per_s(setting.device, 1 << 22 if setting.quick else 4 << 30)
    floor_ms = 1e3 * table_ND.nbytes / rate
    findings.put("table", f"{rows:,} x {WIDTH} {str(dtype).removeprefix('torch.')}")
    findings.put("copy_bytes_per_s", rate)
    findings.put("floor_ms", floor_ms)
    for batch in (1, 8, 64):
        states_BD = torch.randn(batch, WIDTH, device=setting.device).to(dtype)
        wanted = _torch_way(table_ND, 0)(states_BD)[1].float()
        for name, call in _ways(setting, findings, table_ND, states_BD).items():
            call.launch()
            found = call.outputs()[1].float()
            same = bool(torch.allclose(found, wanted, rtol=1e-2, atol=1e-2))
            times = measure(call, batch, setting.cell_s, setting.device)
            best_ms = times.device_p50_ms or times.wall_p50_ms
            findings.cell(
                {
                    "way": name,
                    "batch": batch,
                    "same_scores": same,
                    "times_the_floor": best_ms / floor_ms,
                    **times.to_json(),
                }
            )


def _ways(
    setting: Setting, findings: Findings, table_ND: Tensor, states_BD: Tensor
) -> dict[str, Prepared]:
    ways = {}
    for chunks in QUICK_CHUNKS if setting.quick else CHUNKS:
        name = "one stage" if chunks == 0 else f"two stages, {chunks} chunks"
        way = _torch_way(table_ND, chunks)
        ways[f"PyTorch, {name}"] = _prepared(way, states_BD, graphed=False)
        if setting.cuda:
            ways[f"PyTorch, {name}, CUDA graph"] = _prepared(way, states_BD, graphed=True)
    if setting.cuda:
        ways |= _engine_ways(setting, findings, table_ND, states_BD)
    return ways


def _torch_way(table_ND: Tensor, chunks: int) -> Call:
    def one(states_BD: Tensor) -> tuple[Tensor, Tensor]:
        scores, rows = (states_BD @ table_ND.T).topk(K, dim=1)
        return rows, scores

    def two(states_BD: Tensor) -> tuple[Tensor, Tensor]:
        scores_BGC = (states_BD @ table_ND.T).unflatten(1, (chunks, -1))
        size = scores_BGC.shape[2]
        best_BGK, rows_BGK = scores_BGC.topk(K, dim=2)
        rows_BGK = rows_BGK + size * torch.arange(chunks, device=rows_BGK.device)[:, None]
        scores, places = best_BGK.flatten(1).topk(K, dim=1)
        return rows_BGK.flatten(1).gather(1, places), scores

    return one if chunks == 0 else two


def _prepared(way: Call, states_BD: Tensor, *, graphed: bool) -> Prepared:
    inputs = {"states": states_BD.clone()}
    found: list[tuple[Tensor, Tensor]] = []

    def launch() -> None:
        with torch.inference_mode():
            found[:] = [way(inputs["states"])]

    run = captured(launch) if graphed else launch
    return Prepared(inputs=inputs, launch=run, outputs=lambda: found[0])


def write_top_k(path: Path, rows: int, chunks: int, half: bool) -> None:
    """Write the ONNX graph states [B, D], table [rows, D] -> rows and scores [B, K]."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    node = helper.make_node
    constants: dict[str, Any] = {"k": np.array([K])}
    nodes = [node("Gemm", ["states", "table"], ["flat"], transB=1)]
    if chunks == 0:
        nodes.append(node("TopK", ["flat", "k"], ["scores", "rows"], axis=1))
    else:
        size = rows // chunks
        constants |= {
            "chunked": np.array([-1, chunks, size]),
            "merged": np.array([-1, chunks * K]),
            "first": (np.arange(chunks) * size)[:, None],
        }
        nodes += [
            node("Reshape", ["flat", "chunked"], ["scores_BGC"]),
            node("TopK", ["scores_BGC", "k"], ["best_BGK", "local_BGK"], axis=2),
            node("Add", ["local_BGK", "first"], ["rows_BGK"]),
            node("Reshape", ["best_BGK", "merged"], ["best"]),
            node("Reshape", ["rows_BGK", "merged"], ["candidates"]),
            node("TopK", ["best", "k"], ["scores", "places"], axis=1),
            node("GatherElements", ["candidates", "places"], ["rows"], axis=1),
        ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "top_k",
        [value("states", kind, ["B", WIDTH]), value("table", kind, [rows, WIDTH])],
        [value("rows", TensorProto.INT64, ["B", K]), value("scores", kind, ["B", K])],
        [numpy_helper.from_array(v.astype(np.int64), name) for name, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    save(model, path)


def _engine_ways(
    setting: Setting, findings: Findings, table_ND: Tensor, states_BD: Tensor
) -> dict[str, Prepared]:
    """Return TensorRT's ways; whatever refuses is a note, for PyTorch's have yet to be timed."""
    from benchmarks.gpu.engine_run import EngineRunError
    from mmsr.export.tensorrt.flavour import TensorRTError

    ways = {}
    for chunks in CHUNKS:
        name = "one stage" if chunks == 0 else f"two stages, {chunks} chunks"
        try:
            ways[f"TensorRT, {name}"] = _engine_way(setting, chunks, table_ND, states_BD)
        except (EngineRunError, TensorRTError, ImportError, RuntimeError) as error:
            findings.note(f"TensorRT, {name}, batch {len(states_BD)}: {error}")
    return ways


def _engine_way(setting: Setting, chunks: int, table_ND: Tensor, states_BD: Tensor) -> Prepared:
    from mmsr.export.onnx_file import describe
    from mmsr.export.tensorrt.builder import BuildRequest, build_engine
    from mmsr.export.tensorrt.flavour import find_flavour, find_gpu
    from mmsr.export.tensorrt.profiles import batches

    flavour = find_flavour(None, find_gpu())
    path = setting.work / f"top-k-{chunks}.onnx"
    plan = path.with_suffix(".plan")
    if not plan.is_file():
        write_top_k(path, len(table_ND), chunks, half=True)
        profiles = [{"B": size} for size in batches((1, 8, 64))]
        request = BuildRequest(onnx=path, spec=describe(path), profiles=profiles)
        plan.write_bytes(build_engine(request, flavour, lambda *step: None).plan)
    run = EngineRun(plan.read_bytes(), flavour)
    inputs = {"states": states_BD.clone()}
    profile = (1, 8, 64).index(len(states_BD))
    call = run.prepare({**inputs, "table": table_ND}, profile)
    outputs = (call.outputs["rows"], call.outputs["scores"])
    return Prepared(inputs=inputs, launch=captured(call.launch), outputs=lambda: outputs)
