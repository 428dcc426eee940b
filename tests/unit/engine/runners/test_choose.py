import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_bundle import Shop
from support.tiny_encoders import publish_with_encoders

from mmsr.bundle.errors import BundleError
from mmsr.bundle.files import sha256_file
from mmsr.engine.errors import ConfigError, DeviceFailed
from mmsr.engine.model import open_model
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.runners import choose as choosing
from mmsr.engine.runners.choose import Choice, Machine, Runners, choose, device_steps, fits
from mmsr.engine.runners.cuda import CudaDevice
from mmsr.engine.runners.engine_files import EngineFile, find_engines, result_steps, steps_of
from mmsr.engine.runners.gpu import Gpu, find_gpu

H100 = Gpu(name="NVIDIA H100", sm="sm90")
MACHINE = Machine(gpu=H100, flavours={"tensorrt": "10.14.1", "tensorrt-rtx": "1.7.1"}, cuda=True)
NOTHING = Machine()
SIZES = {"least": 1, "typical": 20, "most": 300}
PROFILE = {"B": {"least": 1, "typical": 8, "most": 8}, "L": {**SIZES, "most": 12}, "k": SIZES}


def engine(flavour: str = "tensorrt", version: str = "10.14.1", sm: str | None = "sm90") -> Any:
    return EngineFile(
        path=Path("sequence.plan"),
        sha256="",
        flavour=flavour,
        version=version,
        sm=sm,
        precision="fp16",
        profiles=(PROFILE,),
    )


RTX = engine("tensorrt-rtx", "1.7.1", None)


def test_an_engine_that_fits_comes_first_and_tensorrt_before_rtx() -> None:
    assert choose("auto", MACHINE, [RTX, engine()]) == Choice(runner="engine", engine=engine())
    assert choose("auto", MACHINE, [RTX]) == Choice(runner="engine", engine=RTX)


def test_without_engines_onnx_runtime_computes_where_it_can() -> None:
    assert choose("auto", MACHINE, []) == Choice(runner="cuda")
    assert choose("auto", NOTHING, []) == Choice(runner="cpu")


@pytest.mark.parametrize(
    "other", [engine(version="11.4.0"), engine(sm="sm80"), engine("tensorrt-rtx", "1.6.0", None)]
)
def test_an_engine_that_does_not_fit_is_one_warning_with_both_versions(other: EngineFile) -> None:
    found = choose("auto", MACHINE, [other])
    assert found.runner == "cuda"
    assert found.warning is not None
    assert str(other) in found.warning
    assert "tensorrt 10.14.1, tensorrt-rtx 1.7.1 on NVIDIA H100 (sm90)" in found.warning


def test_without_a_gpu_no_engine_fits() -> None:
    assert not fits(RTX, NOTHING)
    found = choose("auto", NOTHING, [RTX])
    assert (found.runner, found.engine) == ("cpu", None)
    assert "here is no CUDA device" in (found.warning or "")


def test_what_is_wanted_is_taken_although_there_is_a_faster_one() -> None:
    everything = [engine(), RTX]
    assert choose("cpu", MACHINE, everything) == Choice(runner="cpu")
    assert choose("cuda", MACHINE, everything) == Choice(runner="cuda")
    assert choose("tensorrt-rtx", MACHINE, everything).engine == RTX


@pytest.mark.parametrize(
    ("wanted", "machine", "said"),
    [
        ("cuda", NOTHING, r"runner cuda: ONNX Runtime cannot use CUDA here \(no CUDA device\)"),
        ("tensorrt", NOTHING, "runner tensorrt: no engine for no CUDA device .*found: tensorrt 10"),
        ("tensorrt-rtx", MACHINE, r"runner tensorrt-rtx: no engine for .*\(found: none\)"),
    ],
)
def test_what_is_wanted_and_not_there_is_an_error(wanted: Any, machine: Machine, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose(wanted, machine, [engine()])


def test_an_engine_is_padded_to_its_own_batches() -> None:
    steps = steps_of(engine())
    assert steps.dims == {"B": (8,), "L": (8, 12)}
    assert steps.values == {"k": (10, 20, 50, 100, 200, 300)}
    assert result_steps(5) == (5,)


def put_engine(bundle: Path, **changed: Any) -> Path:
    """Write an engine's manifest beside a bundle, as `mmsr-repo engines` does."""
    folder = bundle.parents[1] / "engines" / bundle.name / "tensorrt-10.14.1-sm90"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sequence.plan").write_bytes(b"a plan")
    entry = {
        "plan": "sequence.plan",
        "sha256": sha256_file(folder / "sequence.plan"),
        "precision": "fp16",
        "profiles": [PROFILE],
    }
    described = {
        "format_version": 1,
        "bundle_id": bundle.name,
        "flavour": "tensorrt",
        "version": "10.14.1",
        "gpu": {"name": "NVIDIA H100", "sm": "sm90"},
        "engines": {"sequence": entry},
    }
    (folder / "engine.json").write_text(json.dumps({**described, **changed}))
    return folder


@pytest.fixture
def lonely(copy: Path) -> Path:
    """Return a bundle's folder with a repository around it that is its own."""
    folder = copy.parent / "versions" / copy.name
    folder.parent.mkdir()
    return copy.rename(folder)


def test_engines_are_found_beside_their_bundle(lonely: Path) -> None:
    folder = put_engine(lonely)
    (found,) = find_engines(lonely, "sequence")
    assert (str(found), found.precision) == ("tensorrt 10.14.1 on sm90", "fp16")
    assert found.read() == b"a plan"
    assert find_engines(lonely, "image_encoder") == []
    (folder / "sequence.plan").write_bytes(b"another")
    with pytest.raises(BundleError, match="is damaged; build it again"):
        found.read()


@pytest.mark.parametrize(
    "changed", [{"bundle_id": "of-another"}, {"format_version": 9}, {"engines": 3}]
)
def test_a_manifest_that_cannot_be_read_is_passed_over_with_a_warning(
    lonely: Path, changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    put_engine(lonely, **changed)
    assert find_engines(lonely, "sequence") == []
    assert "it is not used" in caplog.text


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_a_server_without_a_gpu_serves_and_says_why_its_engines_do_not(
    lonely: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_engine(lonely)
    with caplog.at_level(logging.WARNING):
        model = open_model(lonely, threads=1, runner="auto")
    assert (model.runner.name, model.precision) == ("ONNX Runtime CPUExecutionProvider", "fp32")
    assert caplog.text.count("tensorrt 10.14.1 on sm90") == 1
    model.close()


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_a_device_without_a_driver_says_which_call_failed() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(DeviceFailed, match="cudaSetDevice: cudaError"):
        CudaDevice()


@pytest.mark.skipif(find_gpu() is not None, reason="this machine has a GPU")
def test_every_call_of_the_runtime_takes_its_arguments() -> None:
    """Without a driver each is refused by its own error, and by none of Python's."""
    cuda = pytest.importorskip("cuda.bindings.runtime")
    device = object.__new__(CudaDevice)
    device._cuda, device._kinds = cuda, cuda.cudaMemcpyKind
    buffer = np.zeros(8, np.uint8)
    source = buffer.ctypes.data
    calls: list[Callable[[], object]] = [
        lambda: device.allocate(8),
        lambda: device.free(4096),
        lambda: device.pinned(8),
        lambda: device.unpin(buffer),
        device.stream,
        lambda: device.write(4096, source, 8, 1),
        lambda: device.read(source, 4096, 8, 1),
        lambda: device.write_column(4096, 64, source, (2, 4)),
        lambda: device.wait(1),
        lambda: device.capture(1, lambda: None),
        lambda: device.launch(1, 1),
        lambda: device.forget(1),
    ]
    for call in calls:
        with pytest.raises(DeviceFailed, match=r"cudaError(InsufficientDriver|NoDevice)"):
            call()


@pytest.mark.parametrize("wanted", ["auto", "tensorrt"])
def test_an_engine_that_fails_to_load_is_passed_over_unless_it_is_wanted(
    lonely: Path, wanted: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put_engine(lonely)
    monkeypatch.setattr(choosing, "this_machine", lambda: MACHINE)

    def refuses(*_: object) -> None:
        raise DeviceFailed("the engine is not loaded: built on another GPU")

    monkeypatch.setattr(Runners, "_engine", refuses)
    runners = Runners(wanted=wanted)
    if wanted == "tensorrt":
        with pytest.raises(DeviceFailed, match="another GPU"):
            runners.open(open_bundle(lonely), "sequence")
        return
    runner, precision, on_device = runners.open(open_bundle(lonely), "sequence")
    assert runner.name == "ONNX Runtime CPUExecutionProvider"
    assert (precision, on_device) == ("fp32", False)
    assert "built on another GPU; ONNX Runtime serves sequence on the CPU instead" in caplog.text
    runner.close()


@pytest.mark.parametrize(
    ("parity", "sm", "used"),
    [
        (None, "sm90", False),
        ({"min_cosine": 1.0}, "sm90", True),
        ({"min_cosine": 1.0}, "sm80", False),
    ],
)
def test_an_encoders_engine_is_used_where_it_was_compared_on_this_kind_of_gpu(
    parity: dict[str, float] | None,
    sm: str,
    used: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The sequence graph's is used either way: it is compared whenever it is loaded."""
    folder = publish_with_encoders(tmp_path).folder
    where = put_engine(folder, flavour="tensorrt-rtx", version="1.7.1", gpu={"name": "", "sm": sm})
    raw = json.loads((where / "engine.json").read_text())
    raw["engines"]["image_encoder"] = raw["engines"]["sequence"] | {"parity": parity}
    (where / "engine.json").write_text(json.dumps(raw))
    monkeypatch.setattr(choosing, "this_machine", lambda: replace(MACHINE, cuda=False))
    opened = []

    def refuses(self: Runners, bundle: OpenedBundle, graph: str, file: EngineFile) -> None:
        opened.append(graph)
        raise DeviceFailed("no GPU in a test")

    monkeypatch.setattr(Runners, "_engine", refuses)
    for graph in ("sequence", "image_encoder"):
        Runners(wanted="auto").open(open_bundle(folder), graph).runner.close()
    assert opened == ["sequence", *["image_encoder"] * used]
    said = "the image_encoder engine for tensorrt-rtx 1.7.1 was never compared on sm90"
    assert (said in caplog.text) is not used


def test_a_graph_without_an_engine_has_steps_of_its_own(shop: Shop) -> None:
    steps = device_steps(open_bundle(shop.folder), "sequence")
    assert steps.dims["B"][-1] == 256
    assert steps.dims["L"] == (8, 12)
    assert steps.values["k"][-1] == shop.sizes.items
