"""A connection that is too old is closed, and no call is lost with it."""

import threading
from pathlib import Path

import grpc
import pytest
from support.serving import PATIENCE_S, serving
from support.tiny_bundle import Sizes, publish

from mmsr.v1 import recommender_pb2 as pb
from mmsr.v1 import recommender_pb2_grpc as pb_grpc


def test_an_old_connection_is_replaced_without_losing_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = publish(tmp_path / "repository", Sizes(items=30, probes=4))
    monkeypatch.setenv("MMSR_SERVE_SERVER_MAX_CONNECTION_AGE_S", "0.2")
    opened, closed = threading.Event(), threading.Event()

    def note(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            opened.set()
        elif opened.is_set():
            closed.set()

    with serving(shop.root) as served, grpc.insecure_channel(served.target) as channel:
        channel.subscribe(note)
        stub = pb_grpc.RecommenderStub(channel)
        asked = 0
        while not (closed.is_set() and asked > 100):
            request = pb.RecommendRequest(history=["item-1"], k=3)
            assert stub.Recommend(request, timeout=PATIENCE_S).item_ids
            asked += 1
