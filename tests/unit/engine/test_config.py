import os
from pathlib import Path
from typing import Any

import pytest

from mmsr.engine.config import BatchConfig, ServeConfig, default_threads, threads_for
from mmsr.engine.errors import ConfigError


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"max_batch": 0}, "max_batch 0; expected at least 1"),
        ({"queue_limit": 0}, "queue_limit 0; expected at least 1"),
        ({"max_wait_ms": -1.0}, "max_wait_ms -1.0; expected at least 0"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms nan"),
    ],
)
def test_a_batch_setting_out_of_range_is_refused(setting: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        BatchConfig(**setting)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"port": -1}, "port -1"),
        ({"port": 65536}, "port 65536; expected 0 to 65535"),
        ({"threads": 0}, "threads 0; expected at least 1"),
        ({"grace_s": -0.5}, "grace_s -0.5"),
        ({"lame_duck_s": -1}, "lame_duck_s -1; expected at least 0"),
    ],
)
def test_a_server_setting_out_of_range_is_refused(setting: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ServeConfig(repository=Path("r"), **setting)


def test_a_core_is_left_to_grpc() -> None:
    assert [threads_for(cpus) for cpus in (1, 2, 3, 64)] == [1, 1, 2, 63]


def test_the_cores_are_those_that_the_process_may_use() -> None:
    assert default_threads() == threads_for(len(os.sched_getaffinity(0)))
    assert ServeConfig(repository=Path("r")).threads == default_threads()
