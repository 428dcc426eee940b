"""A runner on a device that is wrong, or dies, makes way for the CPU's, unless it was asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.fake_device import FakeDevice
from support.fake_runner import engine_runner
from support.tiny_bundle import Shop

from mmsr.engine.errors import DeviceFailed, ProbeFailed
from mmsr.engine.opened import OpenedBundle
from mmsr.engine.proven import open_proven
from mmsr.engine.runners import choose
from mmsr.engine.runners.base import AnyArray
from mmsr.engine.runners.choose import Machine, Runners
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.gpu import Gpu

MACHINE = Machine(gpu=Gpu(name="a GPU", sm="sm90"), cuda=True)


class Changed(WithFallback):
    """A runner that changes its answers, or dies."""

    change: str = ""

    def run(self, batch: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        outputs = super().run(batch)
        if self.change == "dies":
            raise DeviceFailed("cudaGraphLaunch: cudaErrorIllegalAddress")
        if self.change == "is wrong":
            outputs["scores"] += 1.0
        return outputs


@pytest.fixture
def on_device(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> type[Changed]:
    """Let this machine seem to have a GPU, on which a played runner computes."""
    monkeypatch.setattr(choose, "this_machine", lambda: MACHINE)

    def cuda(self: Runners, bundle: OpenedBundle, graph: str) -> Any:
        return Changed(engine_runner(shop, FakeDevice()), lambda: self._cpu(bundle, graph))

    monkeypatch.setattr(Runners, "_cuda", cuda)
    return Changed


def opened(folder: Path, runner: Any) -> str:
    model, report = open_proven(folder, threads=1, runner=runner)
    try:
        assert report.overlap == 1.0
        return model.runner.name
    finally:
        model.close()


def test_a_device_that_answers_like_pytorch_serves(shop: Shop, on_device: type[Changed]) -> None:
    assert opened(shop.folder, "auto") == "fake TensorRT"
    assert opened(shop.folder, "cpu") == "ONNX Runtime CPUExecutionProvider"


@pytest.mark.parametrize("change", ["dies", "is wrong"])
def test_one_that_does_not_makes_way_for_the_cpu(
    change: str,
    shop: Shop,
    on_device: type[Changed],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(on_device, "change", change)
    assert opened(shop.folder, "auto") == "ONNX Runtime CPUExecutionProvider"
    assert "fake TensorRT is not used" in caplog.text


def test_one_that_was_asked_for_ends_the_start(
    shop: Shop, on_device: type[Changed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "change", "is wrong")
    with pytest.raises(ProbeFailed, match="does not answer like PyTorch"):
        open_proven(shop.folder, threads=1, runner="cuda")


def test_a_wrong_cpu_is_no_reason_to_try_it_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Runners._cpu

    def cpu(self: Runners, bundle: OpenedBundle, graph: str) -> Any:
        runner = Changed(real(self, bundle, graph), lambda: real(self, bundle, graph))
        runner.change = "is wrong"
        return runner

    monkeypatch.setattr(Runners, "_cpu", cpu)
    with pytest.raises(ProbeFailed):
        open_proven(shop.folder, threads=1, runner="auto")
