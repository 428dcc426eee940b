"""Two real processes over Gloo: they train as one would, and none outlives the other in silence."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.fork_server import Forked, ForkServer, fork_server
from support.small_features import write_features
from support.small_shop import shop_recipe, write_shop

from mmsr.training.checkpoint import checkpoint_folder

# No dropout and the whole catalogue's softmax: then the sum over two halves is the whole.
EXACT = """
dropout = 0.0
attention_dropout = 0.0
modality_dropout = 0.0
id_dropout = 0.0
"""
# After 15 steps; most in the biases of keys, whose gradient is 0 but for rounding, and which Adam
# divides by its own size: measured 5e-7.
WEIGHTS_ATOL = 1e-4
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("outputs")) as server:
        yield server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(write_shop(tmp_path_factory.mktemp("shop") / "data"), "image", "text")


def recipe(folder: Path, batch_size: int, epochs: int = 3) -> Path:
    folder.mkdir()
    fit = {"batch_size": batch_size, "epochs": epochs, "patience": epochs, "learning_rate": 1e-3}
    path = shop_recipe(folder, **fit)
    path.write_text(path.read_text().replace("[model]", f"[model]{EXACT}"))
    return path


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port: int = trial.getsockname()[1]
        return port


def start_two(server: ForkServer, *arguments: str | Path) -> list[Forked]:
    """Start a command as torchrun would, two processes on this machine."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        server.start(*arguments, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]


def succeed(*processes: Forked) -> str:
    """Wait for all; return what the first one has printed."""
    outputs = [(process.code(), process.output.read_text()) for process in processes]
    assert all(code == 0 for code, _ in outputs), outputs
    return outputs[0][1]


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint_folder(run, "last")
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    training = load_file(folder / "training.safetensors")
    return found | {k: v for k, v in training.items() if k.startswith("loss.")}


def state(run: Path) -> dict[str, object]:
    read: dict[str, object] = json.loads(
        (checkpoint_folder(run, "last") / "state.json").read_text()
    )
    return read


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 23])
def test_two_processes_train_as_one_with_the_double_batch(
    server: ForkServer, data: Path, tmp_path: Path, batch_size: int
) -> None:
    """With 70 windows, batches of 16 leave 6 and batches of 46 leave 24."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    double, single = recipe(tmp_path / "a", 2 * batch_size), recipe(tmp_path / "b", batch_size)
    succeed(server.start("fit", double, "--data", data, "--out", alone))
    printed = succeed(*start_two(server, "fit", single, "--data", data, "--out", both))
    one, two = weights(alone), weights(both)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=WEIGHTS_ATOL, rtol=0, msg=name)
    assert state(alone)["best_epoch"] == state(both)["best_epoch"]
    assert printed.count("epoch   3") == 1


@pytest.mark.slow
def test_two_processes_go_on_together_where_they_stopped(
    server: ForkServer, data: Path, tmp_path: Path
) -> None:
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    long, short = recipe(tmp_path / "a", 8, epochs=4), recipe(tmp_path / "b", 8, epochs=2)
    succeed(*start_two(server, "fit", long, "--data", data, "--out", whole))
    succeed(*start_two(server, "fit", short, "--data", data, "--out", halved))
    succeed(*start_two(server, "fit", long, "--data", data, "--out", halved, "--resume"))
    one, two = weights(whole), weights(halved)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("dying", [0, 1])
def test_a_process_that_dies_ends_the_other_with_one_clear_error(
    server: ForkServer, data: Path, tmp_path: Path, dying: int
) -> None:
    endless = recipe(tmp_path / "recipe", 8, epochs=100_000)
    run = tmp_path / "run"
    processes = start_two(server, "fit", endless, "--data", data, "--out", run)
    waited = 0.0
    while not (run / "checkpoint.json").exists() and waited < PATIENCE_S:
        assert not processes[dying].ended_within(0.1), processes[dying].output.read_text()
        waited += 0.1
    processes[dying].kill()
    left = processes[1 - dying]
    assert left.ended_within(PATIENCE_S)
    assert left.code() == 1
    errors = [line for line in left.output.read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, left.output.read_text()
    assert f"process {1 - dying} of 2 has lost another one" in errors[0]
    assert "Traceback" not in left.output.read_text()


@pytest.mark.slow
def test_what_is_refused_ends_all_with_the_reason(
    server: ForkServer, data: Path, tmp_path: Path
) -> None:
    path = recipe(tmp_path / "recipe", 8)
    processes = start_two(server, "fit", path, "--data", data / "none", "--out", tmp_path / "run")
    codes = [process.code() for process in processes]
    outputs = [process.output.read_text() for process in processes]
    assert codes == [1, 1]
    # Who ends first may be all that the other one hears of.
    assert any("holds no prepared data" in output for output in outputs)
    assert all(output.count("error: ") == 1 for output in outputs), outputs
