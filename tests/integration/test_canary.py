"""Canaries on real servers: the unfit are rolled back while users are answered, a fit one stays."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import grpc
import pytest
from support.canary_bundles import burden, fail_at, publish_candidate, retitle, unproven_row
from support.serving import PATIENCE_S, Served, start
from support.tiny_bundle import Shop, Sizes, publish

from mmsr.bundle.repository import Repository
from mmsr.engine.admin_client import AdminClient, CanaryStatus
from mmsr.engine.split import Split
from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc

SIZES = Sizes(items=60, probes=8)
UNPROVEN = unproven_row(SIZES)
HISTORY = ["item-1", "item-2", f"item-{UNPROVEN - 1}"]
USERS = [f"user-{number}" for number in range(12)]
HALF = Split(label="canary", share=0.5)
CANARYS_USERS = {user for user in USERS if HALF.takes(user)}
BY_USERS = ("--canary-percent", "50")
BY_SHADOW = ("--canary-percent", "0", "--shadow-percent", "100")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for key, value in (
        ("RELOAD_POLL_S", "0.05"),
        ("RELOAD_NICE", "0"),
        ("RELOAD_SHARE", "1"),
        ("SERVER_THREADS", "1"),
        ("BATCH_MAX_BATCH", "2"),
        ("CANARY_LEAST_REQUESTS", "20"),
        ("CANARY_WINDOW_S", "600"),
        ("CANARY_SHADOW_SHARE", "1"),
    ):
        monkeypatch.setenv(f"MMSR_SERVE_{key}", value)
    return publish(tmp_path / "repository", SIZES)


@pytest.fixture
def repository(shop: Shop) -> Repository:
    return Repository(shop.root)


@contextmanager
def trying(shop: Shop, *flags: str) -> Iterator[Served]:
    """Keep a server running; a canary may make it log errors, but not end."""
    with_canary = ("--canary", "canary", "--admin-port", "0", "--metrics-port", "0")
    served = start(shop.root, *with_canary, *flags)
    try:
        yield served
        assert served.stop() == 0, served.log
    finally:
        served.process.kill()
        served.end()


@dataclass
class Traffic:
    """Users who ask one after the other until they are told to stop."""

    target: str
    answers: list[tuple[str, str]] = field(default_factory=list)  # user and version
    failures: list[tuple[str, grpc.StatusCode]] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._done = False
        self._round = threading.Condition()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._thread.join(PATIENCE_S)

    def last_round(self) -> dict[str, str]:
        """Return which version each user is answered by in a round that begins now, or later."""
        with self._round:
            for _ in range(2):
                assert self._round.wait(PATIENCE_S), "nobody asks"
            return dict(self.answers[-len(USERS) :])

    def _ask(self) -> None:
        with grpc.insecure_channel(self.target) as channel:
            stub = pb_grpc.RecommenderStub(channel)
            while not self._done:
                for user in USERS:
                    try:
                        version = ask(stub, user)
                    except grpc.RpcError as error:
                        self.failures.append((user, error.code()))
                    else:
                        self.answers.append((user, version))
                with self._round:
                    self._round.notify_all()


def ask(stub: pb_grpc.RecommenderStub, user: str) -> str:
    request = pb.RecommendRequest(history=HISTORY, k=10, user_key=user)
    version: str = stub.Recommend(request, timeout=PATIENCE_S).model_version
    return version


def trial_of(admin: AdminClient) -> CanaryStatus:
    found = admin.status().canary
    assert found is not None
    return found


def admin_of(served: Served) -> AdminClient:
    return AdminClient(served.wait_for(r"listening on (\S+), Admin alone")[1])


def metric(served: Served, beginning: str) -> float:
    port = served.wait_for(r"metrics for anybody on http://127\.0\.0\.1:(\d+)/metrics")[1]
    page = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).read().decode()
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(beginning))


class Case(NamedTuple):
    """What is wrong with a canary, who finds it out, and how."""

    publish: Callable[[Repository], str]
    flags: tuple[str, ...]
    limit: tuple[str, str]
    reason: str


def slow(repository: Repository) -> str:
    return publish_candidate(repository, SIZES, burden(SIZES))


def failing(repository: Repository) -> str:
    return publish_candidate(repository, SIZES, fail_at(SIZES, UNPROVEN))


def wrong(repository: Repository) -> str:
    return publish_candidate(repository, SIZES, seed=1)


LATE = (
    ("MAX_P99_MS", "10"),
    r"p99 of \d+ (shadow )?requests in 600 s is .* ms, the limit is 10 ms",
)
FAILED = (
    ("MAX_ERROR_PERCENT", "5"),
    r"% of \d+ (shadow )?requests in 600 s failed \(\d+ INTERNAL\), the limit is 5 %",
)
OTHER = (
    ("MIN_OVERLAP", "0.6"),
    r"overlap@k of \d+ shadow requests in 600 s is .* \(rank-biased .*\), the limit is 0.6",
)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(Case(slow, BY_USERS, *LATE), id="slow, by its users"),
        pytest.param(Case(slow, BY_SHADOW, *LATE), id="slow, by the shadow"),
        pytest.param(Case(failing, BY_USERS, *FAILED), id="failing, by its users"),
        pytest.param(Case(failing, BY_SHADOW, *FAILED), id="failing, by the shadow"),
        pytest.param(Case(wrong, BY_SHADOW, *OTHER), id="wrong, by the shadow"),
    ],
)
def test_a_canary_that_is_not_fit_is_rolled_back_and_users_are_answered(
    shop: Shop, repository: Repository, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setenv(f"MMSR_SERVE_CANARY_{case.limit[0]}", case.limit[1])
    good, bad = shop.folder.name, case.publish(repository)
    with trying(shop, *case.flags) as served, admin_of(served) as admin:
        with Traffic(served.target) as traffic:
            assert trial_of(admin).state == "no bundle"
            repository.promote(bad, "canary")
            line = served.wait_for(f"canary ({bad} was rolled back: .*{case.reason})")[1]
            served.wait_for(f"canary is {good} now, was {bad}")
            assert traffic.last_round() == dict.fromkeys(USERS, good)
            served.wait_for(f"freed {bad}")
        before, now = repository.history("canary")
        assert (before.bundle_id, before.reason) == (bad, None)
        assert (now.bundle_id, now.reason) == (good, line)
        status = trial_of(admin)
        assert (status.state, status.rolled_back_reason) == ("rolled back", line)
        assert metric(served, "mmsr_canary_rollbacks_total") == 1
        assert metric(served, "mmsr_canary_trying") == 0
    assert served.log.count("was rolled back") == 1
    if case.flags is BY_SHADOW or case.publish is not failing:  # nothing holds the bundle
        assert "still referred to" not in served.log
    assert "Traceback" not in served.log or case.publish is failing
    theirs = CANARYS_USERS if case.flags is BY_USERS else set()
    assert {user for user, _ in traffic.failures} <= (theirs if case.publish is failing else set())
    assert {user for user, version in traffic.answers if version == bad} <= theirs


def test_a_canary_that_is_fit_stays_and_every_next_one_is_judged_anew(
    shop: Shop, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (
        ("MAX_P99_MS", "60000"),
        ("MAX_ERROR_PERCENT", "0"),
        ("MIN_OVERLAP", "0.99"),
        ("SHADOW_PERCENT", "100"),
    ):
        monkeypatch.setenv(f"MMSR_SERVE_CANARY_{key}", value)
    old = shop.folder.name
    fit, unfit = publish_candidate(repository, SIZES, retitle), wrong(repository)
    wanted = {user: fit if user in CANARYS_USERS else old for user in USERS}
    with (
        trying(shop, *BY_USERS) as served,
        admin_of(served) as admin,
        Traffic(served.target) as traffic,
    ):
        repository.promote(fit, "canary")
        served.wait_for(f"canary {fit} is on trial beside {old}")
        while (status := trial_of(admin)).compared < 60 or status.requests < 60:
            assert traffic.last_round() == wanted
        assert (status.state, status.errors, status.shadow_failed) == ("trying", 0, 0)
        assert status.overlap == 1.0
        assert status.rank_biased_overlap == pytest.approx(1.0)
        assert metric(served, "mmsr_canary_rollbacks_total") == 0
        assert metric(served, "mmsr_canary_trying") == 1
        assert metric(served, "mmsr_shadow_overlap_count") >= 60
        assert metric(served, "mmsr_shadow_seconds_count") >= 120  # under either label
        repository.promote(unfit, "canary")
        served.wait_for(f"canary {unfit} was rolled back: overlap@k of 20 shadow requests")
        served.wait_for(f"canary is {old} now, was {unfit}")
        repository.promote(fit, "stable")
        served.wait_for(f"stable is {fit} now, was {old}")
        # What the label was rolled back to is no candidate, though it is another bundle now.
        assert traffic.last_round() == dict.fromkeys(USERS, fit)
        assert trial_of(admin).state == "rolled back"
        repository.promote(fit, "canary")
        served.wait_for(f"canary is {fit} now, was {old}")
        assert trial_of(admin).state == "same bundle"
        repository.promote(old, "canary")
        served.wait_for(f"canary {old} is on trial beside {fit}")
        status = trial_of(admin)
        assert (status.state, status.rolled_back_reason) == ("trying", "")
    assert [move.reason is None for move in repository.history("canary")] == [
        *(True, True, False, True, True)
    ]
    assert traffic.failures == []


def test_every_server_that_follows_the_label_stops_to_try_it(
    shop: Shop, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSR_SERVE_CANARY_MIN_OVERLAP", "0.6")
    flags = (*BY_USERS, "--shadow-percent", "100")
    good, bad = shop.folder.name, wrong(repository)
    repository.promote(bad, "canary")
    with trying(shop, *flags) as asked, trying(shop, *flags) as quiet, admin_of(quiet) as admin:
        quiet.wait_for(f"canary {bad} is on trial beside {good}")
        with Traffic(asked.target):
            line = asked.wait_for(f"canary ({bad} was rolled back: .*)")[1]
        quiet.wait_for(f"canary was rolled back to {good} by a server: {re.escape(line)}")
        quiet.wait_for(f"canary is {good} now, was {bad}")
        with Traffic(quiet.target) as traffic:
            assert traffic.last_round() == dict.fromkeys(USERS, good)
        assert trial_of(admin).rolled_back_reason == line
        assert metric(quiet, "mmsr_canary_rollbacks_total") == 0
        with trying(shop, *flags) as later, admin_of(later) as admin_of_later:
            assert later.target
            assert trial_of(admin_of_later).rolled_back_reason == line
    assert len(repository.history("canary")) == 2


def test_where_the_repository_cannot_be_written_the_server_stops_alone(
    shop: Shop, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMSR_SERVE_CANARY_MIN_OVERLAP", "0.6")
    good, bad = shop.folder.name, wrong(repository)
    repository.promote(bad, "canary")
    lock = repository.root / ".lock"
    lock.unlink()
    lock.mkdir()  # nobody can write now, whatever the user's rights are
    with trying(shop, *BY_USERS, "--shadow-percent", "100") as served, admin_of(served) as admin:
        with Traffic(served.target) as traffic:
            served.wait_for(f"canary {bad} was rolled back: ")
            served.wait_for(
                f"label 'canary' could not be moved away from {bad} .*only this server has stopped"
            )
            assert traffic.last_round() == dict.fromkeys(USERS, good)
        assert trial_of(admin).state == "rolled back"
    assert [move.bundle_id for move in repository.history("canary")] == [bad]
    assert traffic.failures == []
