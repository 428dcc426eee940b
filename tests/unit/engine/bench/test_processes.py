"""What /proc tells of a process: its CPU time, its memory, who listens at a port."""

import os
import socket
import subprocess
import sys
import time

import pytest

from mmsr.engine.bench.processes import Reading, find_server, read_process
from mmsr.engine.bench.server_side import server_process


def test_a_process_that_computes_uses_cpu_and_memory() -> None:
    before = read_process(os.getpid())
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    after = read_process(os.getpid())
    assert before is not None
    assert after is not None
    assert after.cpu_s - before.cpu_s >= 0.07  # the kernel counts in hundredths
    assert after.memory_mib > 10


def test_children_count_with_their_parent() -> None:
    code = "import sys; b = bytearray(200 << 20); print(len(b), flush=True); sys.stdin.read()"
    before = read_process(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        during = read_process(os.getpid())
        assert child.stdin is not None
        child.stdin.close()
    assert before is not None
    assert during is not None
    assert during.memory_mib > before.memory_mib + 190


def test_a_process_that_has_gone_is_none() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert read_process(child.pid) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_is_found_by_its_port(host: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert find_server(f"{host}:{port}") == os.getpid()
    assert find_server(f"{host}:{port}") is None


@pytest.mark.parametrize("target", ["192.0.2.1:50051", "unix:/tmp/s", "nowhere.invalid:1"])
def test_a_server_elsewhere_is_not_looked_for(target: str) -> None:
    assert find_server(target) is None


def test_cpu_time_is_per_request_between_the_readings() -> None:
    readings = [
        Reading(at_s=100.0, cpu_s=5.0, memory_mib=50.0),
        Reading(at_s=104.0, cpu_s=7.0, memory_mib=60.0),
    ]
    found = server_process(readings, requests=4000, start_s=100.25)
    assert found is not None
    assert (found.cpu_us, found.cpu_cores) == (500.0, 0.5)
    assert found.memory_mib == [(-0.25, 50.0), (3.75, 60.0)]
    assert server_process(readings[:1], requests=4000, start_s=0.0) is None
