"""Bundles that change under a real server process, by the repository's label and by Admin."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from support.serving import PATIENCE_S, Served, serving, start
from support.tiny_bundle import Shop, Sizes, make_twin, manifest_of, publish, seal, write_files

from mmsr.bundle.manifest import load_manifest, verify_files
from mmsr.bundle.repository import Repository
from mmsr.engine.admin_client import AdminClient
from mmsr.engine.client import AsyncRecommenderClient
from mmsr.engine.errors import (
    EngineError,
    InvalidRequest,
    LoadFailed,
    UnknownBundle,
)
from mmsr.engine.split import Split
from mmsr.export.prune import prune
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

SIZES = Sizes(items=60, probes=8)
Change = Callable[[Path], None]


def publish_another(repository: Repository, seed: int, change: Change | None = None) -> str:
    """Publish a bundle of other weights; `change` makes it wrong before its hashes are taken."""
    with repository.stage() as folder:
        write_files(folder, make_twin(SIZES, seed), SIZES)
        if change is not None:
            change(folder)
        seal(folder, manifest_of(SIZES))
        return repository.publish(folder)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("MMSR_SERVE_RELOAD_POLL_S", "0.05")
    monkeypatch.setenv("MMSR_SERVE_RELOAD_NICE", "0")
    monkeypatch.setenv("MMSR_SERVE_RELOAD_SHARE", "1")
    return publish(tmp_path / "repository", SIZES)


@pytest.fixture
def repository(shop: Shop) -> Repository:
    return Repository(shop.root)


@pytest.fixture
def server(shop: Shop) -> Iterator[Served]:
    with serving(shop.root, "--admin-port", "0") as served:
        yield served


@pytest.fixture
def admin(server: Served) -> Iterator[AdminClient]:
    with AdminClient(admin_target(server)) as client:
        yield client


def admin_target(server: Served) -> str:
    assert server.target
    return server.wait_for(r"listening on (\S+), Admin alone")[1]


def test_a_label_that_moves_under_load_costs_no_request(
    shop: Shop, repository: Repository, server: Served
) -> None:
    a, b, c = shop.folder.name, publish_another(repository, 1), publish_another(repository, 2)
    versions: list[str] = []

    async def asker(client: AsyncRecommenderClient, done: asyncio.Event) -> None:
        while not done.is_set():
            versions.append((await client.recommend(["item-1", "item-2"], k=3)).model_version)

    def move() -> None:
        for old, new in ((a, b), (b, c)):
            repository.promote(new, "stable")
            server.wait_for(f"stable is {new} now, was {old}")
            server.wait_for(f"freed {old}")
        assert repository.rollback("stable") == b
        server.wait_for(f"stable is {b} now, was {c}")
        server.wait_for(f"freed {c}")

    async def main() -> None:
        done = asyncio.Event()
        async with AsyncRecommenderClient(server.target, timeout_s=PATIENCE_S) as client:
            askers = [asyncio.create_task(asker(client, done)) for _ in range(4)]
            await asyncio.to_thread(move)
            done.set()
            await asyncio.gather(*askers)

    asyncio.run(main())
    assert set(versions) == {a, b, c}
    assert "still referred to" not in server.log
    assert [repository.is_held(bundle) for bundle in (a, b, c)] == [False, True, False]
    repository.promote(publish_another(repository, 3), "canary")
    assert prune(repository, 1, dry_run=False).removed == (c,)  # a is what stable named before


def damage(folder: Path) -> None:
    path = folder / "tables" / "item_outputs.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def retrain_by_half(folder: Path) -> None:
    np.save(folder / "tables" / "item_inputs.npy", make_twin(SIZES, seed=77).inputs_CW)


def make_no_graph(folder: Path) -> None:
    (folder / "sequence.onnx").write_bytes(b"no graph at all")


def vanish(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (None, damage, "its SHA-256 is not the manifest's"),
        (retrain_by_half, None, "does not answer like PyTorch"),
        (make_no_graph, None, "cannot be loaded"),
        (None, vanish, "no bundle|not found|is missing"),
    ],
)
def test_a_bundle_that_is_not_fit_leaves_the_old_one_and_is_told(
    shop: Shop, repository: Repository, before: Change | None, after: Change | None, reason: str
) -> None:
    bad = publish_another(repository, 1, before)
    if after is not None and after is not vanish:
        after(repository.path(bad))
    served = start(shop.root, "--admin-port", "0")
    try:
        with AdminClient(admin_target(served)) as admin:
            repository.promote(bad, "stable")
            if after is vanish:
                after(repository.path(bad))
            served.wait_for(f"ERROR stable names {bad}, which is not served: .*({reason})")
            [model] = admin.status().models
            assert model.model_version == shop.folder.name
            assert model.failed_load is not None
            assert model.failed_load.model_version == bad
            assert admin.status().state == "serving"
            repository.rollback("stable")
            good = publish_another(repository, 2)
            repository.promote(good, "stable")
            served.wait_for(f"stable is {good} now")
            [model] = admin.status().models
            assert (model.model_version, model.failed_load) == (good, None)
        assert served.stop() == 0
        assert "Traceback" not in served.log
        assert served.log.count(" ERROR ") == 1
    finally:
        served.process.kill()
        served.end()


def test_a_server_that_is_killed_while_it_loads_leaves_the_repository_valid(
    shop: Shop, repository: Repository
) -> None:
    new = publish_another(repository, 1)
    served = start(shop.root)
    try:
        assert served.target
        repository.promote(new, "stable")
        while not repository.is_held(new):
            assert served.process.poll() is None
        served.process.kill()
    finally:
        served.process.kill()
        served.end()
    for bundle_id in repository.ids():
        folder = repository.path(bundle_id)
        verify_files(folder, load_manifest(folder))
    assert repository.history("stable")[-1].bundle_id == new
    with serving(shop.root) as again:
        again.wait_for(f"serving {new}")
        assert not repository.is_held(shop.folder.name)


def test_a_server_that_is_told_to_stop_while_it_loads_stops(
    shop: Shop, repository: Repository
) -> None:
    new = publish_another(repository, 1)
    with serving(shop.root) as served:
        assert served.target
        repository.promote(new, "stable")
        while not repository.is_held(new):
            assert served.process.poll() is None
        assert served.stop() == 0
    assert not repository.is_held(new)


def test_each_label_answers_with_its_own_bundle(shop: Shop, repository: Repository) -> None:
    canary = publish_another(repository, 1)
    with (
        serving(shop.root, "--also", "canary") as served,
        grpc.insecure_channel(served.target) as channel,
    ):
        stub = pb_grpc.RecommenderStub(channel)

        def version(label: str) -> str:
            request = pb.RecommendRequest(history=["item-1"], k=3, label=label)
            return stub.Recommend(request, timeout=PATIENCE_S).model_version

        served.wait_for("no label 'canary' yet")
        assert version("stable") == version("") == shop.folder.name
        with pytest.raises(grpc.RpcError, match="label 'canary' is not served here"):
            version("canary")
        repository.promote(canary, "canary")
        served.wait_for(f"canary is {canary}")
        assert (version("canary"), version("stable")) == (canary, shop.folder.name)
        repository.promote(canary, "stable")
        served.wait_for(f"stable is {canary} now")
        served.wait_for(f"freed {shop.folder.name}")
        assert version("stable") == canary


def test_a_canary_answers_its_share_of_the_users_and_always_the_same_ones(
    shop: Shop, repository: Repository
) -> None:
    canary = publish_another(repository, 1)
    split = Split(label="canary", share=0.4)
    users = [f"user-{number}" for number in range(30)]
    wanted = [canary if split.takes(user) else shop.folder.name for user in users]
    assert len(set(wanted)) == 2
    asked = [pb.RecommendRequest(history=["item-1"], k=3, user_key=user) for user in users]
    flags = ("--canary", "canary", "--canary-percent", "40", "--metrics-port", "0")
    with serving(shop.root, *flags) as served, grpc.insecure_channel(served.target) as channel:
        stub = pb_grpc.RecommenderStub(channel)

        def singles() -> list[str]:
            return [stub.Recommend(one, timeout=PATIENCE_S).model_version for one in asked]

        assert singles() == [shop.folder.name] * len(users)  # the canary has no bundle yet
        repository.promote(canary, "canary")
        served.wait_for(f"canary is {canary}")
        assert singles() == wanted
        assert singles() == wanted
        batch = stub.RecommendBatch(pb.RecommendBatchRequest(requests=asked), timeout=PATIENCE_S)
        assert [result.response.model_version for result in batch.results] == wanted
        streamed = stub.RecommendStream(
            iter([pb.RecommendStreamRequest(key=r.user_key, request=r) for r in asked]),
            timeout=PATIENCE_S,
        )
        found = {answer.key: answer.result.response.model_version for answer in streamed}
        assert [found[user] for user in users] == wanted
        for one, version in zip(asked, wanted, strict=True):
            score = pb.ScoreRequest(
                history=["item-1"], candidate_ids=["item-2"], user_key=one.user_key
            )
            assert stub.Score(score, timeout=PATIENCE_S).model_version == version
        for label, version in (("stable", shop.folder.name), ("canary", canary)):
            named = pb.RecommendRequest(history=["item-1"], k=3, user_key="x", label=label)
            assert stub.Recommend(named, timeout=PATIENCE_S).model_version == version
        counted = 2 * wanted.count(canary) + 1
        port = served.wait_for(r"metrics for anybody on http://127\.0\.0\.1:(\d+)/metrics")[1]
        page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).read().decode()
        [line] = [
            line
            for line in page.splitlines()
            if line.startswith("mmsr_answers_total")
            and '"canary"' in line
            and '/Recommend"' in line
        ]
        assert float(line.split()[-1]) == counted


def test_an_operator_loads_promotes_and_rolls_back(
    shop: Shop, repository: Repository, admin: AdminClient, server: Served
) -> None:
    old, new = shop.folder.name, publish_another(repository, 1)
    model, took_ms = admin.load(new)
    assert (model.label, model.model_version) == ("stable", new)
    assert took_ms > 0
    assert repository.resolve("stable").name == old  # the label stays where it is
    with pytest.raises(LoadFailed, match="has had no bundle but"):
        admin.roll_back()
    assert admin.promote(new).model_version == new
    assert repository.resolve("stable").name == new
    assert admin.roll_back("stable").model_version == old
    assert repository.resolve("stable").name == old
    status = admin.status()
    [found] = status.models
    assert (status.state, status.default_label) == ("serving", "stable")
    spare = repository.manifest(old).tables.capacity - 1 - SIZES.items
    assert (found.model_version, found.items, found.spare_rows) == (old, SIZES.items, spare)
    assert status.memory_bytes > 1 << 20
    with pytest.raises(UnknownBundle, match="no bundle '0123456789abcdef'"):
        admin.load("0123456789abcdef")
    with pytest.raises(EngineError, match="label 'canary' is not served here"):
        admin.load(new, "canary")


def test_an_operator_changes_the_log_level_and_drains(admin: AdminClient, server: Served) -> None:
    assert admin.set_log_level("DEBUG") == "INFO"
    assert admin.set_log_level("INFO") == "DEBUG"
    with pytest.raises(InvalidRequest, match="level is 'LOUD'; expected one of: DEBUG, INFO"):
        admin.set_log_level("LOUD")
    admin.drain()
    assert server.end() == 0
    assert "told to drain" in server.log


def test_the_admin_command_prints_what_is_served(
    shop: Shop, repository: Repository, server: Served
) -> None:
    def said(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "mmsr.engine.admin", admin_target(server), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    new = publish_another(repository, 1)
    assert f"stable answers with {new}, after" in said("load", new)
    shown = said("status")
    assert new in shown
    assert "serving, version" in shown
    assert said("load", "0123456789abcdef", code=1).startswith("error: no bundle")


def test_admin_is_nowhere_unless_it_was_asked_for(shop: Shop) -> None:
    with (
        serving(shop.root) as served,
        AdminClient(served.target) as admin,
        pytest.raises(EngineError, match="UNIMPLEMENTED"),
    ):
        admin.status()
