"""The real server process over a real socket, on a small real bundle."""

import asyncio
import concurrent.futures
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.serving import PATIENCE_S, Served, serving, start
from support.tiny_bundle import Shop, Sizes, Twin, make_twin, manifest_of, publish, seal

from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.client import AsyncRecommenderClient, Recommendations, RecommenderClient
from mmsr.engine.errors import (
    DeadlineTooShort,
    EngineError,
    InvalidRequest,
    MessageTooLarge,
    Overloaded,
    Unavailable,
)

SLOW = Sizes(items=40_000, width=64, extra_width=0)  # some milliseconds a batch
SCORE_ATOL = 1e-4  # numpy and ONNX Runtime sum in other orders


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("shop") / "repository")


@pytest.fixture(scope="module")
def slow_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return publish(tmp_path_factory.mktemp("slow") / "repository", SLOW)


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    port_file = tmp_path_factory.mktemp("run") / "port"
    # Some tests send hundreds of calls at once, which a busy process would not read by default.
    flags = ("--port-file", str(port_file), "--pending-limit", "1024")
    with serving(shop.root, *flags) as served:
        assert served.target == f"127.0.0.1:{port_file.read_text().strip()}"
        yield served
        assert served.stop() == 0
        assert not port_file.exists()


@pytest.fixture
def client(server: Served) -> Iterator[RecommenderClient]:
    with RecommenderClient(server.target, timeout_s=PATIENCE_S) as opened:
        opened.wait_until_serving(PATIENCE_S)
        yield opened


def histories(count: int, items: int, seed: int = 5) -> list[list[str]]:
    random = np.random.default_rng(seed)
    return [
        [f"item-{n}" for n in random.integers(0, items, random.integers(1, 30))]
        for _ in range(count)
    ]


def check(answer: Recommendations, twin: Twin, history: list[str], k: int) -> None:
    expected = twin.recommend(history, k, excluded=history)
    assert [item_id for item_id, _ in answer.items] == [item_id for item_id, _ in expected]
    scores = [score for _, score in answer.items]
    assert scores == pytest.approx([score for _, score in expected], abs=SCORE_ATOL)


def concurrently(
    target: str, main: Callable[[AsyncRecommenderClient], Coroutine[Any, Any, None]]
) -> None:
    async def inside() -> None:
        async with AsyncRecommenderClient(target, timeout_s=PATIENCE_S) as opened:
            await opened.wait_until_serving(PATIENCE_S)
            await asyncio.wait_for(main(opened), PATIENCE_S)

    asyncio.run(inside())


def test_it_says_what_it_serves_and_where(server: Served, shop: Shop) -> None:
    line = server.wait_for(r"\S+Z INFO serving .*")[0]
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO serving "
        rf"{shop.folder.name} on 127\.0\.0\.1:\d+, 300 items, "
        r"runner ONNX Runtime CPUExecutionProvider",
        line,
    )


def test_answers_are_those_of_brute_force(client: RecommenderClient, shop: Shop) -> None:
    for history in histories(100, shop.sizes.items):
        answer = client.recommend(history, k=10)
        check(answer, shop.twin, history, 10)
        assert answer.model_version == shop.folder.name
        assert (answer.unknown_ids, answer.fallback) == (0, None)


def test_concurrent_requests_ride_in_batches(server: Served, shop: Shop) -> None:
    wanted = histories(256, shop.sizes.items)

    async def main(opened: AsyncRecommenderClient) -> None:
        answers = await asyncio.gather(*(opened.recommend(h, k=7) for h in wanted))
        for history, answer in zip(wanted, answers, strict=True):
            check(answer, shop.twin, history, 7)
        assert max(answer.batch_size for answer in answers) > 1
        assert all(answer.batch_size <= 64 for answer in answers)

    concurrently(server.target, main)


@pytest.mark.parametrize("history", [[], ["nobody", "nothing"]])
def test_without_a_known_item_the_popular_ones_answer(
    client: RecommenderClient, shop: Shop, history: list[str]
) -> None:
    barred = shop.twin.popular(2)
    answer = client.recommend(history, k=5, excluded_ids=barred)
    assert [item_id for item_id, _ in answer.items] == shop.twin.popular(5, excluded=barred)
    assert (answer.fallback, answer.unknown_ids) == ("popularity", len(history))
    assert answer.unknown_item_ids == tuple(history)


def test_seen_items_come_back_only_when_asked_for(client: RecommenderClient) -> None:
    def ids(**how: Any) -> set[str]:
        return {item_id for item_id, _ in client.recommend(["item-4"], k=1000, **how).items}

    assert "item-4" not in ids()
    assert "item-4" not in ids(exclude_seen=True)
    assert ids(exclude_seen=False) - ids() == {"item-4"}


@pytest.mark.parametrize(
    ("history", "k", "error", "complaint"),
    [
        (["item-1"], 0, InvalidRequest, "k is 0; expected 1 to 1000"),
        (["item-1"], 1001, InvalidRequest, "k is 1001; expected 1 to 1000"),
        ([""], 5, InvalidRequest, "history holds an empty id"),
        (["x" * 513], 5, InvalidRequest, "an id of 513 bytes .*; expected at most 512"),
        (["item-1"] * 10_001, 5, InvalidRequest, "history has 10001 ids"),
        (["x" * 10_000_000], 5, MessageTooLarge, r"larger than max \(1000\d+ vs\. 4194304\)"),
    ],
)
def test_a_bad_request_is_told_why_and_hurts_nobody(
    client: RecommenderClient, history: list[str], k: int, error: type[EngineError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        client.recommend(history, k)
    assert client.recommend(["item-1"], k=3).items


def test_a_deadline_that_cannot_be_met_is_told(server: Served, shop: Shop) -> None:
    """Half a millisecond, behind 256 others, on a connection that sends them one by one."""
    wanted = histories(256, shop.sizes.items, seed=7)

    async def main(opened: AsyncRecommenderClient) -> None:
        others = [asyncio.create_task(opened.recommend(h, k=5)) for h in wanted]
        hurried = asyncio.create_task(opened.recommend(wanted[0], k=5, deadline_ms=0.5))
        with pytest.raises(DeadlineTooShort):
            await hurried
        for history, other in zip(wanted, others, strict=True):
            check(await other, shop.twin, history, 5)

    concurrently(server.target, main)


def test_a_client_that_gives_up_does_not_hurt_the_others(server: Served, shop: Shop) -> None:
    wanted = histories(128, shop.sizes.items, seed=6)

    async def main(opened: AsyncRecommenderClient) -> None:
        calls = [asyncio.create_task(opened.recommend(h, k=5)) for h in wanted]
        await calls[0]
        for call in calls[1::2]:
            call.cancel()
        for history, call in list(zip(wanted, calls, strict=True))[2::2]:
            check(await call, shop.twin, history, 5)
        check(await opened.recommend(wanted[1], k=5), shop.twin, wanted[1], 5)

    concurrently(server.target, main)


def test_health_is_told_by_name(server: Served) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "mmsr.v1.Recommender"):
            request = health_pb2.HealthCheckRequest(service=service)
            status = stub.Check(request, timeout=PATIENCE_S).status
            assert status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(server: Served) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(server.target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        [response] = stub.ServerReflectionInfo(iter([request]), timeout=PATIENCE_S)
    names = {service.name for service in response.list_services_response.service}
    assert {"mmsr.v1.Recommender", "grpc.health.v1.Health"} <= names


def test_the_server_holds_no_torch(server: Served) -> None:
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "torch" not in maps


def test_the_client_command_prints_a_table_with_titles(server: Served, shop: Shop) -> None:
    command = [sys.executable, "-m", "mmsr.engine.client", server.target, "-k", "2"]
    flags = ["--history", "item-3", "--repository", str(shop.root)]
    done = subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    [(best, score), _] = shop.twin.recommend(["item-3"], 2, excluded=["item-3"])
    lines = done.stdout.splitlines()
    assert lines[0] == "after: Title of item-3"
    assert re.fullmatch(rf"   1  {best} +Title of {best} +{score:.3f}", lines[2])
    assert re.search(rf"model {shop.folder.name}, queue .* ms, compute .* ms, batch of 1", lines[4])


def refused(root: Path, *flags: str) -> str:
    """Start a server that must not come up; return its one line of error."""
    served = start(root, *flags)
    try:
        assert served.end() == 1, served.log
    finally:
        served.process.kill()
        served.end()
    errors = [line for line in served.lines if not re.match(r"\d{4}-\d\d-\d\dT\S+ INFO ", line)]
    assert len(errors) == 1, served.log
    assert errors[0].startswith("error: ")
    return errors[0]


def test_a_port_in_use_is_told_and_not_shared(server: Served, shop: Shop) -> None:
    port = server.target.rpartition(":")[2]
    error = refused(shop.root, "--port", port)
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in error


def test_a_missing_repository_and_a_missing_label_are_told(shop: Shop, tmp_path: Path) -> None:
    assert "is not a repository" in refused(tmp_path)
    assert "no label 'canary'" in refused(shop.root, "--label", "canary")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("sequence.onnx", cut, "the file was cut or replaced"),
        ("tables/item_outputs.npy", change, "its SHA-256 is not the manifest's"),
        ("probe.npz", Path.unlink, "is missing"),
    ],
)
def test_a_damaged_bundle_is_not_served(
    shop: Shop, tmp_path: Path, name: str, damage: Callable[[Path], None], complaint: str
) -> None:
    root = tmp_path / "repository"
    shutil.copytree(shop.root, root)
    damaged = root / "versions" / shop.folder.name / name
    damage(damaged)
    error = refused(root)
    assert str(damaged) in error
    assert complaint in error


def test_health_follows_the_life_of_the_server(shop: Shop) -> None:
    serving_status = health_pb2.HealthCheckResponse.SERVING
    with serving(shop.root) as served, grpc.insecure_channel(served.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE_S)
        assert next(watch).status == serving_status
        assert served.stop() == 0
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(watch) == []


def test_a_full_queue_refuses_and_says_when_to_retry(slow_shop: Shop) -> None:
    ends: list[EngineError | Recommendations] = []

    async def call(opened: AsyncRecommenderClient, history: list[str]) -> None:
        try:
            answer = await opened.recommend(history, k=5)
            check(answer, slow_shop.twin, history, 5)
            ends.append(answer)
        except EngineError as error:
            ends.append(error)

    async def main(opened: AsyncRecommenderClient) -> None:
        wanted = histories(64, SLOW.items)
        await asyncio.gather(*(call(opened, history) for history in wanted))

    with serving(slow_shop.root, "--queue-limit", "1", "--max-batch", "1") as served:
        concurrently(served.target, main)
    errors = [end for end in ends if isinstance(end, EngineError)]
    assert len(errors) < len(ends) == 64
    assert errors
    for error in errors:
        assert isinstance(error, Overloaded)
        assert error.retry_after_ms >= 1


def test_sigterm_under_load_loses_nothing(slow_shop: Shop) -> None:
    answered: list[Recommendations] = []
    refusals: list[EngineError] = []

    async def worker(opened: AsyncRecommenderClient, served: Served, history: list[str]) -> None:
        while True:
            try:
                answered.append(await opened.recommend(history, k=5))
            except EngineError as error:
                refusals.append(error)
                return
            if len(answered) == 200:
                served.process.terminate()

    with serving(slow_shop.root, "--lame-duck-s", "0.5") as served:

        async def main(opened: AsyncRecommenderClient) -> None:
            wanted = histories(48, SLOW.items)
            await asyncio.gather(*(worker(opened, served, history) for history in wanted))

        concurrently(served.target, main)
        assert served.end() == 0
        line = served.wait_for(r"drained: \d+ were waiting, none lost; ([\d,]+) requests answered")
    assert int(line[1].replace(",", "")) == len(answered) > 200 + len(refusals)  # answered on
    assert len(refusals) == 48
    assert {type(error) for error in refusals} == {Unavailable}


def test_a_server_told_to_stop_while_it_loads_stops(slow_shop: Shop) -> None:
    served = start(slow_shop.root)
    try:
        served.wait_for("listening on")
        assert served.stop() == 0
    finally:
        served.process.kill()
        served.end()


HANGING = """
import logging, threading
from mmsr.engine import cli, model
compute = model.SequenceModel.recommend
def recommend(self, requests):
    if len(requests[0].history) == {length}:
        logging.info("hanging")
        threading.Event().wait()
    return compute(self, requests)
model.SequenceModel.recommend = recommend
cli.main()
"""


def hanging(shop: Shop, length: int, *flags: str) -> Served:
    """Start a server whose model never answers a history of `length`."""
    return start(shop.root, *flags, program=("-c", HANGING.format(length=length)))


def test_a_computation_that_hangs_does_not_keep_the_server_from_ending(shop: Shop) -> None:
    served = hanging(shop, 2, "--grace-s", "0.5")
    try:
        with RecommenderClient(served.target, timeout_s=PATIENCE_S) as client:
            client.wait_until_serving(PATIENCE_S)
            with concurrent.futures.ThreadPoolExecutor() as pool:
                call = pool.submit(client.recommend, ["item-1", "item-2"], 3)
                served.wait_for("hanging")
                assert served.stop() == 1, served.log
                assert isinstance(call.exception(PATIENCE_S), Unavailable)
        assert "0.5 s of grace are over: 1 requests are lost" in served.log
        assert served.lines[-1].endswith("a computation does not end and is left behind")
    finally:
        served.process.kill()
        served.end()


def test_a_server_told_to_stop_while_its_model_hangs_ends_well(shop: Shop) -> None:
    served = hanging(shop, 1)  # as the warm-up asks
    try:
        served.wait_for("hanging")
        assert served.stop() == 0, served.log
        assert served.lines[-1].endswith("a computation does not end and is left behind")
    finally:
        served.process.kill()
        served.end()


def test_a_bundle_that_does_not_answer_like_pytorch_is_not_served(
    shop: Shop, tmp_path: Path
) -> None:
    root = tmp_path / "repository"
    shutil.copytree(shop.root, root)
    folder = root / "versions" / shop.folder.name
    np.save(folder / "tables" / "item_inputs.npy", make_twin(shop.sizes, seed=9).inputs_CW)
    (folder / "manifest.json").unlink()
    seal(folder, manifest_of(shop.sizes))
    bundle_id = load_manifest(folder).bundle_id
    folder.rename(folder.with_name(bundle_id))
    Repository(root).promote(bundle_id, "stable")
    assert "does not answer like PyTorch on 40 probe users" in refused(root)


def test_a_client_finds_out_that_nothing_listens() -> None:
    with RecommenderClient("127.0.0.1:1", timeout_s=2) as client:
        with pytest.raises(Unavailable):
            client.recommend(["item-1"], k=1)
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 is not serving after 0\.2 s"):
            client.wait_until_serving(0.2)


def test_a_bundle_of_another_format_is_not_served(shop: Shop, tmp_path: Path) -> None:
    root = tmp_path / "repository"
    shutil.copytree(shop.root, root)
    path = root / "versions" / shop.folder.name / "manifest.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "max_length": 99, "format_version": 0})
    )
    assert "format version 0" in refused(root)
