import os
from pathlib import Path
from typing import Any

import pytest

from mmsr.engine.config import (
    BatchConfig,
    Limits,
    ReloadConfig,
    ServeConfig,
    ServerConfig,
    default_threads,
    threads_for,
)
from mmsr.engine.errors import ConfigError
from mmsr.engine.server import server_options


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"max_batch": 0}, "max_batch 0; expected at least 1"),
        ({"queue_limit": 0}, "queue_limit 0; expected at least 1"),
        ({"max_wait_ms": -1.0}, "max_wait_ms -1.0; expected at least 0"),
        ({"bulk_rate": 1.1}, "bulk_rate 1.1; expected 0 to 1"),
        ({"pending_limit": 0}, "pending_limit 0; expected at least 1"),
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
        ({"admin_port": 65536}, "admin_port 65536; expected 0 to 65535"),
        ({"threads": 0}, "threads 0; expected at least 1"),
        ({"grace_s": -0.5}, "grace_s -0.5"),
        ({"lame_duck_s": -1}, "lame_duck_s -1; expected at least 0"),
        ({"keepalive_s": 0.0}, "keepalive_s 0.0; expected 0.001 to 1000000"),
        ({"max_connection_age_s": float("nan")}, "max_connection_age_s nan"),
    ],
)
def test_a_server_setting_out_of_range_is_refused(setting: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ServerConfig(repository=Path("r"), **setting)


def test_limits_and_polling_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="history 0; expected at least 1"):
        Limits(history=0)
    with pytest.raises(ConfigError, match=r"poll_s 0\.0; expected at least 0\.01"):
        ReloadConfig(poll_s=0.0)


def test_a_core_is_left_to_grpc() -> None:
    assert [threads_for(cpus) for cpus in (1, 2, 3, 64)] == [1, 1, 2, 63]


def test_the_cores_are_those_that_the_process_may_use() -> None:
    assert default_threads() == threads_for(len(os.sched_getaffinity(0)))
    assert ServerConfig(repository=Path("r")).threads == default_threads()


def test_a_label_that_stands_twice_is_served_once() -> None:
    server = ServerConfig(repository=Path("r"), label="b", also=("a", "b", "a"))
    assert ServeConfig(server=server).labels == ("b", "a")


def test_times_of_connections_reach_grpc_in_milliseconds() -> None:
    server = ServerConfig(repository=Path("r"), max_connection_age_s=1.5, keepalive_s=0.001)
    options = dict(server_options(ServeConfig(server=server)))
    assert options["grpc.max_connection_age_ms"] == 1500
    assert options["grpc.max_connection_age_grace_ms"] == 30_000
    assert options["grpc.keepalive_time_ms"] == 1
    assert "grpc.max_connection_idle_ms" not in options  # off


def test_unread_calls_have_one_sharp_limit() -> None:
    config = ServeConfig(
        server=ServerConfig(repository=Path("r")), batch=BatchConfig(pending_limit=7)
    )
    options = dict(server_options(config))
    assert options["grpc.server.max_pending_requests"] == 7
    assert options["grpc.server.max_pending_requests_hard_limit"] == 7
