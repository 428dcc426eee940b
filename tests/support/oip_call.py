"""The recommender by the Open Inference Protocol, with the stubs of this package.

For tests that ask both protocols in one process; what other clients see is for tritonclient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import grpc

from mmsr.oip import inference_pb2 as pb
from mmsr.oip import inference_pb2_grpc as pb_grpc


class Inferred(NamedTuple):
    """The answer to one row."""

    bundle: str
    items: list[tuple[str, float]]  # best first


def infer(
    channel: grpc.Channel, histories: Sequence[Sequence[str]], ks: Sequence[int], timeout_s: float
) -> list[Inferred]:
    """Ask for all histories in one request."""
    stub = pb_grpc.GRPCInferenceServiceStub(channel)
    response = stub.ModelInfer(request_of(histories, ks), timeout=timeout_s)
    return answers_of(response)


def request_of(histories: Sequence[Sequence[str]], ks: Sequence[int]) -> pb.ModelInferRequest:
    """Return the request; shorter histories are padded with empty ids."""
    width = max(1, *map(len, histories))
    request = pb.ModelInferRequest(model_name="recommender")
    history = request.inputs.add(name="history", datatype="BYTES", shape=[len(histories), width])
    for line in histories:
        padded = [*line, *[""] * (width - len(line))]
        history.contents.bytes_contents.extend(item_id.encode() for item_id in padded)
    k = request.inputs.add(name="k", datatype="INT32", shape=[len(histories), 1])
    k.contents.int_contents.extend(ks)
    return request


def answers_of(response: pb.ModelInferResponse) -> list[Inferred]:
    """Return the answers row by row, without padding."""
    tensors = {tensor.name: tensor for tensor in response.outputs}
    rows, width = tensors["ids"].shape
    ids = [item_id.decode() for item_id in tensors["ids"].contents.bytes_contents]
    scores = list(tensors["scores"].contents.fp32_contents)
    bundle = response.parameters["bundle"].string_param
    found = []
    for begin in range(0, rows * width, width):
        row = slice(begin, begin + width)
        pairs = zip(ids[row], scores[row], strict=True)
        found.append(Inferred(bundle, [pair for pair in pairs if pair[0]]))
    return found
