"""The sections of gpu-check, in the order in which they matter, each with its time."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.gpu.setting import Findings, SectionSkippedError, Setting

Run = Callable[[Setting, Findings], None]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the report. Runs in a process of its own: what crashes or hangs is that alone."""

    title: str
    limit_s: float
    run: Run


def _environment(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.environment import look_round

    look_round(setting, findings)


def _graphs(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.graphs import write_graphs

    write_graphs(setting, findings)


def _encoder_graphs(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.graphs import write_encoders

    write_encoders(setting, findings)


def _torch(setting: Setting, findings: Findings, how: str) -> None:
    from benchmarks.gpu.latency import torch_latency

    torch_latency(setting, findings, how)


def _onnx(setting: Setting, findings: Findings, graphed: bool) -> None:
    from benchmarks.gpu.latency import onnx_latency

    onnx_latency(setting, findings, graphed)


def _tensorrt(setting: Setting, findings: Findings, flavour: str) -> None:
    from benchmarks.gpu.latency import tensorrt_latency

    tensorrt_latency(setting, findings, flavour)


def _runners(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.runners import check_runners

    check_runners(setting, findings)


def _top_k(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.topk import top_k

    top_k(setting, findings)


def _refit(setting: Setting, findings: Findings) -> None:
    from benchmarks.gpu.refit import refit_or_rebuild

    refit_or_rebuild(setting, findings)


def _encoder(setting: Setting, findings: Findings, name: str, by: str) -> None:
    from benchmarks.gpu.encoders import encoder_speed

    encoder_speed(setting, findings, name, by)


# The limits are a worst case each; together they may pass the whole run's, which rules.
SECTIONS: Mapping[str, Section] = {
    "environment": Section(title="Machine", limit_s=40, run=_environment),
    "graphs": Section(title="Sequence graphs", limit_s=90, run=_graphs),
    "eager": Section(title="PyTorch eager", limit_s=60, run=partial(_torch, how="eager")),
    "tensorrt": Section(title="TensorRT", limit_s=110, run=partial(_tensorrt, flavour="tensorrt")),
    "tensorrt-rtx": Section(
        title="TensorRT-RTX", limit_s=110, run=partial(_tensorrt, flavour="tensorrt-rtx")
    ),
    "onnx": Section(
        title="ONNX Runtime, IO binding", limit_s=60, run=partial(_onnx, graphed=False)
    ),
    "runners": Section(title="The engine's runners: one suite", limit_s=90, run=_runners),
    "top-k": Section(title="Top 20 of one big table", limit_s=60, run=_top_k),
    "onnx-graphed": Section(
        title="ONNX Runtime, IO binding, CUDA graph", limit_s=45, run=partial(_onnx, graphed=True)
    ),
    "graphed": Section(title="PyTorch, CUDA graph", limit_s=45, run=partial(_torch, how="graphed")),
    "refit": Section(title="Refit against rebuild", limit_s=60, run=_refit),
    "compiled": Section(
        title="PyTorch, torch.compile", limit_s=90, run=partial(_torch, how="compiled")
    ),
    "encoder-graphs": Section(title="Encoder graphs", limit_s=60, run=_encoder_graphs),
    **{
        f"{name}-{by}": Section(
            title=f"{name.capitalize()} encoder, {label}",
            limit_s=40,
            run=partial(_encoder, name=name, by=by),
        )
        for by, label in (("tensorrt", "TensorRT"), ("onnx", "ONNX Runtime"))
        for name in ("image", "text")
    },
}


def run_section(name: str, setting: Setting, findings: Findings) -> None:
    """Run one section; "skipped" among the findings says why it could not.

    Everything else that goes wrong ends the process, which is this section's alone.
    """
    from mmsr.export.tensorrt.flavour import TensorRTAbsentError

    deadline_s = time.monotonic() + SECTIONS[name].limit_s
    if setting.deadline_s:
        deadline_s = min(deadline_s, setting.deadline_s)
    if setting.cuda:
        import torch

        # Everybody's stream: on the default one ONNX Runtime would take another, which does not
        # wait for the copies of the inputs.
        torch.cuda.set_stream(torch.cuda.Stream())
    try:
        SECTIONS[name].run(replace(setting, deadline_s=deadline_s), findings)
    except (SectionSkippedError, TensorRTAbsentError) as reason:
        findings.put("skipped", str(reason))
    except ModuleNotFoundError as error:
        findings.put("skipped", f"needs {error.name}, which is not installed")
