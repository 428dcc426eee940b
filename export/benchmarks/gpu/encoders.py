"""Section "encoders": pictures and texts a second, by everybody who can run the graphs."""

# B items of a call, T tokens

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.engine_run import EngineRun
from benchmarks.gpu.graphs import encoder_path, manifest_of
from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting
from benchmarks.gpu.timing import Prepared, captured, measure
from mmsr.bundle.manifest import GraphSpec
from mmsr.export.onnx_file import describe
from mmsr.export.tensorrt.builder import BuildRequest, build_engine
from mmsr.export.tensorrt.flavour import find_flavour, find_gpu
from mmsr.export.tensorrt.profiles import Buckets, profiles_of

TOKENS = 64
LEAST_COSINE = 0.999  # of fp16 with fp32; the report gives what was found


def encoder_speed(setting: Setting, findings: Findings, name: str, by: str) -> None:
    """Time one encoder by ONNX Runtime ("onnx") or TensorRT ("tensorrt")."""
    path = encoder_path(setting, name, setting.cuda)
    spec = describe(path)
    batches = (1, 2) if setting.quick else (1, 8, 32)
    if by == "onnx":
        prepare = _onnx(setting, path)
    else:
        prepare = _tensorrt(setting, findings, name, (path, spec, batches))
    wanted = _reference(setting, encoder_path(setting, name, False), _inputs(spec, batches[-1]))
    for batch in batches:
        inputs = {n: t.to(setting.device) for n, t in _inputs(spec, batch).items()}
        call = prepare(inputs)
        times = measure(call, batch, setting.cell_s, setting.device)
        values = {"encoder": name, "by": by, "batch": batch, **times.to_json()}
        if batch == batches[-1]:
            values["least_cosine"] = _least_cosine(call.outputs()[0].float().cpu(), wanted)
        findings.cell(values)


def _inputs(spec: GraphSpec, batch: int) -> dict[str, Tensor]:
    random = np.random.default_rng(batch)
    if spec.inputs[0].name == "pixels":
        size = spec.inputs[0].shape[1]
        assert isinstance(size, int)
        pixels = random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)
        return {"pixels": torch.from_numpy(pixels)}
    ids = random.integers(1, 100, (batch, TOKENS))
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.ones(batch, TOKENS, dtype=torch.int64),
    }


def _reference(setting: Setting, path: Path, inputs: dict[str, Tensor]) -> Tensor:
    """Return the fp32 graph's features on the CPU."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {n: t.numpy() for n, t in inputs.items()})[0])


def _least_cosine(found_BF: Tensor, wanted_BF: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(found_BF, wanted_BF, dim=1).min())


def _onnx(setting: Setting, path: Path) -> Callable[[dict[str, Tensor]], Prepared]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if setting.cuda:
        stream = str(torch.cuda.current_stream().cuda_stream)
        providers.insert(0, ("CUDAExecutionProvider", {"user_compute_stream": stream}))
    session = ort.InferenceSession(str(path), options, providers=providers)
    if setting.cuda and session.get_providers()[0] != "CUDAExecutionProvider":
        raise SectionSkippedError("onnxruntime here does not load its CUDA part")
    width = session.get_outputs()[0].shape[1]

    def prepare(inputs: dict[str, Tensor]) -> Prepared:
        binding = session.io_binding()
        batch = len(next(iter(inputs.values())))
        feature = torch.empty(batch, width, device=setting.device)
        for name, tensor in inputs.items():
            kind = np.dtype(str(tensor.dtype).removeprefix("torch.")).type
            binding.bind_input(name, setting.device, 0, kind, tensor.shape, tensor.data_ptr())
        binding.bind_output(
            "feature", setting.device, 0, np.float32, feature.shape, feature.data_ptr()
        )

        def launch() -> None:
            session.run_with_iobinding(binding)

        return Prepared(inputs=inputs, launch=launch, outputs=lambda: (feature,))

    return prepare


def _tensorrt(
    setting: Setting, findings: Findings, name: str, what: tuple[Path, GraphSpec, tuple[int, ...]]
) -> Callable[[dict[str, Tensor]], Prepared]:
    path, spec, batches = what
    gpu = find_gpu() if setting.cuda else None
    flavour = find_flavour(None, gpu)
    profiles = profiles_of(
        f"{name}_encoder",
        manifest_of(setting, setting.items[0]),
        Buckets(image=batches, text=batches),
    )
    built = build_engine(
        BuildRequest(onnx=path, spec=spec, profiles=profiles), flavour, lambda *step: None
    )
    findings.put("flavour", f"{flavour.name} {flavour.version}")
    findings.put("build", {"seconds": built.seconds, "bytes": len(built.plan)})
    if gpu is None:
        raise SectionSkippedError("no GPU: the engine was built, and not run")
    run = EngineRun(built.plan, flavour)

    def prepare(inputs: dict[str, Tensor]) -> Prepared:
        profile = batches.index(len(next(iter(inputs.values()))))
        call = run.prepare(inputs, profile)
        outputs = (call.outputs["feature"],)
        return Prepared(inputs=inputs, launch=captured(call.launch), outputs=lambda: outputs)

    return prepare
