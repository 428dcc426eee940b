"""A TensorRT runner whose engine and device are played by the host."""

from support.fake_device import FakeDevice, FakeEngine
from support.tiny_bundle import Shop, graph_spec

from mmsr.engine.runners.buckets import Steps
from mmsr.engine.runners.tensorrt import TensorRTRunner

BATCHES = (1, 4, 16)
STEPS = Steps(dims={"B": BATCHES, "L": (4, 12), "E": (100, 256)}, values={"k": (10, 30)})


def engine_runner(shop: Shop, device: FakeDevice, *, capturable: bool = True) -> TensorRTRunner:
    profiles = [
        {"B": (1 if before == 0 else before + 1, max(2, size)), "L": (1, 12), "E": (1, 256)}
        for before, size in zip((0, *BATCHES), BATCHES, strict=False)
    ]
    path, spec = shop.folder / "sequence.onnx", graph_spec()
    engine = FakeEngine(path, spec, profiles, device, capturable=capturable)
    return TensorRTRunner(engine, spec, STEPS, device, name="fake TensorRT")
