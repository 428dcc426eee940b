"""What counts against a canary, and what ends its trial: calls told to the meter one by one."""

import logging
from typing import Any

import pytest
from support.loads import deployment
from support.virtual_time import Clock

from mmsr.bundle.repository import LabelMove
from mmsr.engine.errors import (
    Bug,
    CallerLeft,
    DeadlineTooShort,
    EngineError,
    InvalidRequest,
    Overloaded,
    RateExceeded,
    RunnerFailed,
    Unavailable,
)
from mmsr.engine.rpc import Call, Outcome
from mmsr.engine.serving import Serving
from mmsr.engine.shadow import Comparison, Shadow
from mmsr.engine.split import CanaryConfig
from mmsr.engine.trial import Trial
from mmsr.v1 import catalogue_pb2
from mmsr.v1 import recommender_pb2 as pb

STABLE, CANARY = "a" * 16, "b" * 16
RECOMMEND = "mmsr.v1.Recommender/Recommend"
BATCH = "mmsr.v1.Recommender/RecommendBatch"
CONFIG = CanaryConfig(
    label="canary",
    percent=100,
    shadow_percent=100,
    max_error_percent=10,
    max_p99_ms=50,
    min_overlap=0.5,
    least_requests=10,
)


class House:
    """A trial with what it needs, and what it has ordered."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.serving = Serving("stable", CONFIG.split)
        never = Shadow(
            CONFIG, self.serving, self.clock, lambda: 1.0
        )  # its outcomes are told by hand
        self.trial = Trial(CONFIG, self.serving, self.clock, never)
        self.breaches: list[tuple[str, str]] = []
        self.trial.on_breach = lambda version, reason: self.breaches.append((version, reason))
        self.serving.use("stable", deployment(STABLE))
        self.serving.use("canary", deployment(CANARY))

    def ended(
        self,
        error: EngineError | None = None,
        *,
        user: str = "ann",
        seconds: float = 0.01,
        deadline: float | None = None,
        arrived: float | None = None,
        method: str = RECOMMEND,
    ) -> None:
        """Tell of a call that came just now and was answered by whom the split says."""
        call = Call(method, self.clock() if arrived is None else arrived, deadline)
        request = pb.RecommendRequest(history=["i"], k=3, user_key=user)
        response = None
        if error is None:
            label = self.serving.chosen("", user)
            version = self.serving.deployments[label].model.version
            response = pb.RecommendResponse(item_ids=["a"], model_version=version)
        self.trial.ended(call, Outcome(seconds, error, request, response))

    @property
    def counted(self) -> tuple[int, int]:
        """Requests, and errors among them."""
        return self.trial.tally.requests, self.trial.tally.errors


@pytest.fixture
def house() -> House:
    return House()


@pytest.mark.parametrize(
    "error",
    [
        RunnerFailed("the computation failed"),
        Bug("internal error"),
        DeadlineTooShort("5 ms are left"),
        Overloaded("the queue is full", 3),
    ],
)
def test_what_the_server_is_to_blame_for_counts(house: House, error: EngineError) -> None:
    house.ended(error)
    assert house.counted == (1, 1)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("k is 0"),
        RateExceeded("too often", 3),
        CallerLeft(),
        Unavailable("the server is stopping"),
    ],
)
def test_what_the_caller_is_to_blame_for_does_not_count(house: House, error: EngineError) -> None:
    house.ended(error)
    assert house.counted == (0, 0)


def test_a_caller_whose_deadline_came_counts_as_late(house: House) -> None:
    house.ended(CallerLeft(), seconds=0.2, deadline=1.0)  # it left before
    assert house.counted == (0, 0)
    house.ended(CallerLeft(), seconds=0.998, deadline=1.0)
    assert house.counted == (1, 1)


def test_what_the_default_label_does_is_not_the_canarys(house: House) -> None:
    for _ in range(50):
        house.ended(RunnerFailed("it failed"), user="")  # no key: not split
        house.ended(user="")
        house.ended(seconds=9.0, user="")
    assert house.counted == (0, 0)
    assert house.trial.state == "trying"


def test_calls_of_other_services_do_not_count(house: House) -> None:
    call = Call("mmsr.v1.Catalogue/DeleteItems", 0.0, None)
    request = catalogue_pb2.DeleteItemsRequest(item_ids=["a"])
    house.trial.ended(call, Outcome(0.1, RunnerFailed("it failed"), request))
    house.trial.ended(Call(RECOMMEND, 0.0, None), Outcome(0.1, InvalidRequest("no message")))
    assert house.counted == (0, 0)


def test_a_call_that_came_before_the_canary_is_not_its_own(house: House) -> None:
    house.clock.now = 5.0
    house.serving.use("canary", deployment("c" * 16))
    house.ended(RunnerFailed("it failed"), arrived=4.9)
    assert house.counted == (0, 0)
    house.ended(RunnerFailed("it failed"), arrived=5.0)
    assert house.counted == (1, 1)


def test_each_request_of_a_batch_counts_by_itself(house: House) -> None:
    users = ["ann", "ben", "", "cleo", "dan"]
    error = pb.RequestError
    results = [
        pb.RecommendResult(response=pb.RecommendResponse(model_version=CANARY)),
        pb.RecommendResult(error=error(code="INTERNAL")),
        pb.RecommendResult(error=error(code="INTERNAL")),  # the default label's
        pb.RecommendResult(error=error(code="INVALID_ARGUMENT")),
        pb.RecommendResult(error=error(code="DEADLINE_EXCEEDED")),
    ]
    request: Any = pb.RecommendBatchRequest(
        requests=[pb.RecommendRequest(user_key=user) for user in users]
    )
    response = pb.RecommendBatchResponse(results=results)
    house.trial.ended(Call(BATCH, 0.0, None), Outcome(9.0, None, request, response))
    assert house.counted == (3, 2)
    house.trial.ended(Call(BATCH, 0.0, None), Outcome(9.0, CallerLeft(), request, None))
    assert house.counted == (3, 2)


def test_a_breach_ends_the_trial_at_once_and_is_told_once(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(9):
        house.ended()
    house.ended(RunnerFailed("it failed"))
    assert house.serving.chosen("", "ann") == "canary"  # 1 of 10
    house.ended(RunnerFailed("it failed"))
    assert house.serving.chosen("", "ann") == "stable"
    reason = (
        f"{CANARY} was rolled back: 18.2 % of 11 requests in 60 s failed (2 INTERNAL), "
        "the limit is 10 %"
    )
    assert house.breaches == [(CANARY, reason)]
    assert caplog.messages[-1] == f"canary {reason}"
    assert house.trial.rollbacks == {"errors": 1, "p99": 0, "overlap": 0}
    assert house.trial.state == "rolled back"
    for _ in range(20):
        house.ended(RunnerFailed("it failed"))  # of those that were under way
    assert len(house.breaches) == 1


def test_times_are_those_of_recommend_alone(house: House) -> None:
    for _ in range(10):
        house.ended(seconds=9.0, method="mmsr.v1.Recommender/Explain")
    assert house.breaches == []
    for _ in range(10):
        house.ended(seconds=0.06)
    assert house.trial.rollbacks["p99"] == 1


def test_the_shadow_is_judged_apart_from_the_users(house: House) -> None:
    shadow = house.trial.shadow
    for _ in range(9):
        shadow.compared(Comparison(0.1, 0.1, 0.01, 0.01))
        house.ended()
    assert house.breaches == []
    shadow.compared(Comparison(0.1, 0.1, 0.01, 0.01))
    [(_, reason)] = house.breaches
    assert "overlap@k of 10 shadow requests in 60 s is 0.1 (rank-biased 0.1)" in reason
    assert house.trial.tally.overlap == pytest.approx(0.1)


def test_a_shadow_that_fails_ends_the_trial(house: House) -> None:
    for _ in range(10):
        house.trial.shadow.failed("INTERNAL")
    [(_, reason)] = house.breaches
    assert "100 % of 10 shadow requests in 60 s failed (10 INTERNAL)" in reason


def test_the_next_bundle_is_judged_anew(house: House) -> None:
    for _ in range(9):
        house.ended(RunnerFailed("it failed"))
    house.serving.use("canary", deployment("c" * 16))
    assert house.counted == (0, 0)
    for _ in range(9):
        house.ended(RunnerFailed("it failed"))
    assert house.breaches == []
    house.ended(RunnerFailed("it failed"))
    assert [version for version, _ in house.breaches] == ["c" * 16]
    house.serving.use("canary", deployment("d" * 16))
    assert (house.trial.state, house.trial.last_rollback) == ("trying", None)
    assert house.serving.chosen("", "ann") == "canary"


def test_beside_another_default_bundle_it_is_judged_anew_too(house: House) -> None:
    for _ in range(9):
        house.trial.shadow.compared(Comparison(0.1, 0.1, 0.01, 0.01))
    house.serving.use("stable", deployment("c" * 16))
    house.trial.shadow.compared(Comparison(0.1, 0.1, 0.01, 0.01))
    assert house.breaches == []
    assert house.trial.tally.compared == 10  # since the canary is on trial


def test_a_label_that_a_server_has_moved_is_no_candidate(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def moved(bundle_id: str, reason: str | None, label: str = "canary") -> None:
        house.trial.follow(label, LabelMove(bundle_id=bundle_id, since="now", reason=reason))

    moved(STABLE, "it answers too late", "stable")  # another label
    assert house.trial.state == "trying"
    moved(STABLE, "it answers too late")
    assert house.trial.state == "rolled back"  # before the label is followed
    assert caplog.messages == [
        f"canary was rolled back to {STABLE} by a server: it answers too late"
    ]
    house.serving.use("canary", house.serving.deployments["stable"])
    house.serving.use("stable", deployment("c" * 16))
    assert house.serving.chosen("", "ann") == "stable"
    moved("d" * 16, None)
    assert house.trial.state == "rolled back"  # until that is loaded
    house.serving.use("canary", deployment("d" * 16))
    assert house.trial.state == "trying"


def test_without_a_label_there_is_no_trial() -> None:
    assert Trial.of(CanaryConfig(), Serving("stable"), Clock()) is None
