"""Which process of a training this is, as the launcher says it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from mmsr.training.config import ModelConfig
from mmsr.training.distributed import (
    ALONE,
    DistributedError,
    Ranks,
    current_ranks,
    from_first,
    joined,
    mean_over_processes,
    parallel,
    ranks_of,
)
from mmsr.training.model import SequentialRecommender
from mmsr.training.precision import training_dtype

HERE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def test_without_a_launcher_there_is_one_process() -> None:
    assert ranks_of({}) == ranks_of({"WORLD_SIZE": "1"}) == ALONE
    with joined({}) as ranks:
        assert ranks == current_ranks() == ALONE
        assert ranks.first
    module = nn.Linear(1, 1)
    assert parallel(module) is module
    assert mean_over_processes([1.0]) == from_first([1.0]) == [1.0]


def test_a_launcher_names_rank_and_count() -> None:
    ranks = ranks_of({"WORLD_SIZE": "4", "RANK": "2", **HERE})
    assert ranks == Ranks(rank=2, count=4)
    assert not ranks.first


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT not; start .* with torchrun"),
        ({"WORLD_SIZE": "two", "RANK": "0", **HERE}, "'0' of WORLD_SIZE 'two'; expected numbers"),
        ({"WORLD_SIZE": "2", "RANK": "2", **HERE}, "'2' of WORLD_SIZE '2'; expected"),
    ],
)
def test_a_launcher_that_says_too_little_is_refused(
    environment: dict[str, str], message: str
) -> None:
    with pytest.raises(DistributedError, match=message), joined(environment):
        raise AssertionError("joined")


def test_an_error_of_this_process_alone_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^mine$"), joined({}):
        raise RuntimeError("mine")


def test_auto_precision_is_bfloat16_on_gpus_that_have_it_and_float32_elsewhere() -> None:
    cpu = torch.device("cpu")
    assert training_dtype("auto", cpu) == training_dtype("fp32", cpu) == torch.float32
    assert training_dtype("bf16", cpu) == torch.bfloat16


def test_the_blocks_compile_whole_and_once_for_each_length() -> None:
    """Captured without a break; what a GPU's compiler makes of it is not tested here."""
    shapes: list[tuple[int, ...]] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        shapes.extend(tuple(x.shape) for x in inputs if x.dtype == torch.int64)
        return graph.forward

    config = ModelConfig(
        sources=("id", "position", "text"), width=8, side_width=4, feedforward_width=8, blocks=1
    )
    model = SequentialRecommender(config, 20, {"text": 3})
    model.compile(backend=backend, dynamic=False, fullgraph=True)
    table = torch.randn(21, 8 + 4)
    for length in (4, 8, 4):
        history = torch.randint(0, 21, (3, length))
        model.train()
        model(table, history).sum().backward()
        model.eval()
        model.last(table, history, torch.full((3,), length))
    assert sorted(shapes) == [(3, 4), (3, 8)]
