"""What a running server tells of itself: metrics, log lines, traces, health, channelz."""

import asyncio
import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from support.in_process import PATIENCE_S, asking, call, plain, refused, running
from support.serving import Served, serving
from support.tiny_bundle import Shop, publish
from support.virtual_time import Clock

from mmsr.engine.client import RecommenderClient
from mmsr.engine.config import ObserveConfig, SecurityConfig
from mmsr.engine.errors import ListenError, Unavailable
from mmsr.engine.health_url import check_url
from mmsr.engine.server_metrics import STUCK_S, LoopLag
from mmsr.engine.tokens import entry_of, new_token

SECRETS = ("private-item", "private-user", "private-token")
METRICS = ObserveConfig(metrics_port=0)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def run(main: Any) -> None:
    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))


def value_of(text: str, series: str) -> float:
    """Return the value of a series as it stands in a scrape."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, f"{series} is not in:\n{text}"
    return float(found[1])


def test_a_scrape_tells_what_was_served(shop: Shop) -> None:
    async def main() -> None:
        async with running(shop, observe=METRICS) as server, plain(server) as channel:
            for _ in range(3):
                await call(channel, asking("item-1", "nobody"))
            await call(channel, asking())
            await refused(channel, asking("item-1", k=0))
            url = f"http://127.0.0.1:{server.telemetry.port}/metrics"
            status, text = await asyncio.to_thread(get, url)
        assert status == 200
        method = 'method="mmsr.v1.Recommender/Recommend"'
        assert value_of(text, f'mmsr_calls_total{{code="OK",{method}}}') == 4
        assert value_of(text, f'mmsr_answers_total{{label="stable",{method}}}') == 4
        assert value_of(text, f'mmsr_fallback_answers_total{{label="stable",{method}}}') == 1
        assert value_of(text, f'mmsr_unknown_history_ids_total{{label="stable",{method}}}') == 3
        invalid = f'cause="InvalidRequest",code="INVALID_ARGUMENT",{method}'
        assert value_of(text, f"mmsr_refusals_total{{{invalid}}}") == 1
        for name, count in (("call", 4), ("queue", 3), ("compute", 3)):
            labels = f'{{label="stable",{method}}}'
            assert value_of(text, f"mmsr_{name}_seconds_count{labels}") == count
        assert value_of(text, 'mmsr_batch_size_count{label="stable"}') == 3
        assert value_of(text, 'mmsr_batch_size_bucket{label="stable",le="1.0"}') == 3
        assert value_of(text, 'mmsr_items{label="stable"}') == shop.sizes.items
        assert value_of(text, "mmsr_catalogue_version") == 0
        assert (
            value_of(text, 'mmsr_spare_rows{label="stable"}')
            == shop.sizes.capacity - 1 - shop.sizes.items
        )
        assert value_of(text, 'mmsr_loads_total{label="stable",result="ok"}') == 1
        assert value_of(text, 'mmsr_load_failed{label="stable"}') == 0
        assert value_of(text, "mmsr_serving") == 1
        assert value_of(text, f"mmsr_calls_in_flight{{{method}}}") == 0
        assert value_of(text, "process_resident_memory_bytes") > 1e6
        assert f'model_version="{shop.folder.name}"' in text

    run(main)


def test_only_get_metrics_is_answered_there(shop: Shop) -> None:
    async def main() -> None:
        async with running(shop, observe=METRICS, load=False) as server:
            root = f"http://127.0.0.1:{server.telemetry.port}"
            for path in ("/", "/metrics/x", "/favicon.ico", "/debug"):
                status, text = await asyncio.to_thread(get, root + path)
                assert (status, text) == (404, "only GET /metrics, /livez, /readyz\n")

    run(main)


def test_probes_say_whether_it_lives_and_whether_it_serves(shop: Shop) -> None:
    async def main() -> None:
        async with running(shop, observe=METRICS, load=False) as server:
            root = f"http://127.0.0.1:{server.telemetry.port}"

            async def both() -> list[tuple[int, str]]:
                return [await asyncio.to_thread(get, root + p) for p in ("/livez", "/readyz")]

            assert await both() == [(200, "ok\n"), (503, "not serving\n")]
            with pytest.raises(Unavailable, match="readyz: 503: not serving"):
                await asyncio.to_thread(check_url, f"{root}/readyz", PATIENCE_S)
            await server.load(shop.folder)
            assert await both() == [(200, "ok\n"), (200, "ok\n")]
            server.health.set(serving=False)  # as at SIGTERM
            assert await both() == [(200, "ok\n"), (503, "not serving\n")]

    run(main)


def test_a_loop_that_stands_still_is_no_life() -> None:
    clock = Clock()

    async def main() -> None:
        lag = LoopLag(clock)
        clock.now = 100.0
        assert lag.stuck() is None  # it is not measured yet
        lag.start()
        clock.now += STUCK_S
        assert lag.stuck() is None
        clock.now += 1.0
        assert lag.stuck() == "the event loop has stood still for 31 s"
        lag.stop()

    run(main)


def test_before_a_bundle_is_loaded_there_are_metrics_too(shop: Shop) -> None:
    async def main() -> None:
        async with running(shop, observe=METRICS, load=False) as server:
            url = f"http://127.0.0.1:{server.telemetry.port}/metrics"
            _, text = await asyncio.to_thread(get, url)
        assert value_of(text, "mmsr_serving") == 0

    run(main)


def test_a_port_that_is_taken_is_an_error_that_names_its_flag(shop: Shop) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        observe = ObserveConfig(metrics_port=taken.getsockname()[1])

        async def main() -> None:
            async with running(shop, observe=observe, load=False):
                raise AssertionError("it listens")

        with pytest.raises(ListenError, match="choose another --metrics-port"):
            run(main)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path, token = tmp_path_factory.mktemp("tokens") / "tokens.toml", f"private-token-{new_token()}"
    path.write_text(entry_of("shop", ["recommend"], token))
    return path, token


@pytest.fixture(scope="module")
def server(shop: Shop, tokens: tuple[Path, str]) -> Iterator[Served]:
    """A real process with all that is observed switched on."""
    flags = ("--log-format", "json", "--log-level", "DEBUG", "--log-requests")
    with serving(shop.root, *flags, "--tokens", str(tokens[0]), "--metrics-port", "0") as served:
        yield served


def test_every_line_of_the_log_is_json_and_none_tells_of_users_or_secrets(
    server: Served, tokens: tuple[Path, str]
) -> None:
    request = asking("private-item", "x" * 600)
    request.user_key = "private-user"

    async def main() -> None:
        async with grpc.aio.insecure_channel(server.target) as channel:
            known = {"authorization": f"Bearer {tokens[1]}", "x-request-id": "r-1"}
            await refused(channel, request, known)
            await call(channel, asking("private-item", "item-1"), known)
            await refused(channel, request, {"authorization": "Bearer private-token-2"})

    run(main)
    server.wait_for('"code": "UNAUTHENTICATED"')
    lines = [json.loads(line) for line in server.lines]
    calls = [line for line in lines if line["message"].startswith("call")]
    assert [line["code"] for line in calls] == ["INVALID_ARGUMENT", "OK", "UNAUTHENTICATED"]
    assert [line.get("client") for line in calls] == ["shop", "shop", None]
    assert [line.get("request_id") for line in calls] == ["r-1", "r-1", None]
    assert not [secret for secret in SECRETS if secret in server.log]


def test_it_says_at_the_start_what_is_exposed_and_how(server: Served) -> None:
    server.wait_for(r"listening on 127\.0\.0\.1:\d+: not encrypted, tokens of 1 clients")
    server.wait_for(r"metrics for anybody on http://127\.0\.0\.1:\d+/metrics")


def test_the_health_probe_ends_with_0_where_it_serves_and_with_1_elsewhere(server: Served) -> None:
    def probe(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "mmsr.engine.health_probe", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)

    good = probe(server.target)
    assert (good.returncode, good.stdout, good.stderr) == (0, "", "")
    unknown = probe(server.target, "--service", "bakery")
    assert unknown.returncode == 1
    assert "NOT_FOUND" in unknown.stderr
    assert probe("127.0.0.1:1", "--timeout-s", "0.5").returncode == 1
    metrics = server.wait_for(r"metrics for anybody on (http://\S+)/metrics")[1]
    ready = probe(f"{metrics}/readyz")
    assert (ready.returncode, ready.stdout, ready.stderr) == (0, "", "")
    lost = probe(f"{metrics}/nowhere")
    assert (lost.returncode, "404: only GET /metrics" in lost.stderr) == (1, True)
    assert "Connection refused" in probe("http://127.0.0.1:1/readyz").stderr
    both = probe(f"{metrics}/readyz", "--service", "mmsr.v1.Recommender")
    assert "expected a URL alone" in both.stderr


def test_a_server_beyond_loopback_without_protection_does_not_start(shop: Shop) -> None:
    command = [sys.executable, "-m", "mmsr.engine.cli", "--repository", str(shop.root)]
    done = subprocess.run(
        [*command, "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: host 0.0.0.0 is reachable from other machines")
    assert "--insecure" in done.stderr


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


def test_traces_reach_a_collector_with_the_callers_context(shop: Shop) -> None:
    collector, trace = Collector(), "0af7651916cd43dd8448eb211c80319c"
    with futures.ThreadPoolExecutor(1) as threads:
        receiver = grpc.server(threads)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(collector, receiver)
        port = receiver.add_insecure_port("127.0.0.1:0")
        receiver.start()
        observe = ObserveConfig(otlp_endpoint=f"http://127.0.0.1:{port}", trace_ratio=0.0)

        async def main() -> None:
            async with running(shop, observe=observe) as server, plain(server) as channel:
                await call(channel, asking("item-1"))  # nobody traces it
                header = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
                await call(channel, asking("item-1"), header)

        run(main)
        receiver.stop(None).wait()
    assert {span.name for span in collector.spans} == {
        *("mmsr.v1.Recommender/Recommend", "queue", "compute")
    }
    assert {span.trace_id.hex() for span in collector.spans} == {trace}


def test_a_collector_that_is_not_there_holds_nobody_up(shop: Shop) -> None:
    async def main() -> None:
        observe = ObserveConfig(otlp_endpoint="http://127.0.0.1:1", trace_ratio=1.0)
        async with running(shop, observe=observe) as server, plain(server) as channel:
            await call(channel, asking("item-1"))

    run(main)


def test_channelz_is_for_those_who_may_call_admin(shop: Shop, tmp_path: Path) -> None:
    path, admin, other = tmp_path / "tokens.toml", new_token(), new_token()
    path.write_text(entry_of("ops", ["admin"], admin) + entry_of("shop", ["recommend"], other))
    method = "grpc.channelz.v1.Channelz/GetServers"
    asked = channelz_pb2.GetServersRequest()

    async def main() -> None:
        security = SecurityConfig(tokens=path)
        observe = ObserveConfig(channelz=True)
        async with (
            running(shop, security=security, observe=observe, load=False) as server,
            plain(server) as channel,
        ):
            allowed = {"authorization": f"Bearer {admin}"}
            answer = await call(channel, asked, allowed, method)
            assert channelz_pb2.GetServersResponse.FromString(answer).server
            denied = await refused(channel, asked, {"authorization": f"Bearer {other}"}, method)
            assert denied.code() == grpc.StatusCode.PERMISSION_DENIED
            missing = channelz_pb2.GetSocketRequest(socket_id=10**9)
            unknown = await refused(channel, missing, allowed, method.replace("Servers", "Socket"))
            assert unknown.code() == grpc.StatusCode.INVALID_ARGUMENT

    run(main)


def test_without_its_flag_there_is_no_channelz(shop: Shop) -> None:
    async def main() -> None:
        async with running(shop, load=False) as server, plain(server) as channel:
            asked = channelz_pb2.GetServersRequest()
            error = await refused(channel, asked, None, "grpc.channelz.v1.Channelz/GetServers")
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED

    run(main)


def test_a_client_of_the_package_is_served_as_before(server: Served) -> None:
    with RecommenderClient(server.target) as client:
        client.wait_until_serving(PATIENCE_S)
