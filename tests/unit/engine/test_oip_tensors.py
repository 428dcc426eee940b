import struct
from typing import Any

import numpy as np
import pytest

from mmsr.engine.errors import InvalidRequest
from mmsr.engine.oip_tensors import (
    TensorKind,
    Texts,
    add_output,
    join_bytes,
    read_inputs,
    split_bytes,
    wanted_outputs,
)
from mmsr.oip import inference_pb2 as pb

HISTORY = TensorKind("history", "BYTES", (-1, -1))
K = TensorKind("k", "INT32", (-1, 1), spread=True)
PIXELS = TensorKind("pixels", "UINT8", (-1, 2))
KINDS = (HISTORY, K)
MAX_ROWS = 4


def asked(
    history: Any = ((2, 2), [b"a", b"b", b"c", b""]), k: Any = ((2, 1), [3, 4]), **more: Any
) -> pb.ModelInferRequest:
    """Return a request with typed contents."""
    request = pb.ModelInferRequest(model_name="recommender", **more)
    shape, values = history
    tensor = request.inputs.add(name="history", datatype="BYTES", shape=shape)
    tensor.contents.bytes_contents.extend(values)
    shape, values = k
    tensor = request.inputs.add(name="k", datatype="INT32", shape=shape)
    tensor.contents.int_contents.extend(values)
    return request


def raw(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """Return the same request with raw contents."""
    texts, numbers = (tensor.contents for tensor in request.inputs)
    contents = [join_bytes(texts.bytes_contents), np.array(numbers.int_contents, "<i4").tobytes()]
    for tensor in request.inputs:
        tensor.ClearField("contents")
    request.raw_input_contents.extend(contents)
    return request


@pytest.mark.parametrize("form", [lambda request: request, raw])
def test_typed_and_raw_contents_say_the_same(form: Any) -> None:
    read = read_inputs(form(asked()), KINDS, MAX_ROWS)
    history, k = read["history"], read["k"]
    assert isinstance(history, Texts)
    assert isinstance(k, np.ndarray)
    assert history.rows() == [[b"a", b"b"], [b"c", b""]]
    assert (k.tolist(), str(k.dtype)) == ([[3], [4]], "int32")


def test_one_element_holds_for_every_row_where_the_kind_says_so() -> None:
    k = read_inputs(asked(k=((1,), [7])), KINDS, MAX_ROWS)["k"]
    assert isinstance(k, np.ndarray)
    assert k.tolist() == [7]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (asked(k=((2, 1), [3])), r"'k' has 1 elements in int_contents; expected 2"),
        (
            asked(k=((2,), [3, 4])),
            r"unexpected shape for input 'k' .*Expected \[-1, 1\], got \[2\]",
        ),
        (asked(k=((3, 1), [1, 2, 3])), "differ in their rows: 'history' 2, 'k' 3"),
        (asked(history=((5, 0), []), k=((1,), [1])), "batch-size must be <= 4 for 'recommender'"),
        (asked(history=((0, 2), []), k=((1,), [1])), "at least 1; got 0"),
        (asked(history=((-2, -2), [b""] * 4)), r"unexpected shape for input 'history'"),
        (asked(history=((1 << 40, 1 << 40), [])), r"'history' has 0 elements in bytes_contents"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(request_: pb.ModelInferRequest, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read_inputs(request_, KINDS, MAX_ROWS)


def test_an_input_that_the_model_lacks_is_refused() -> None:
    request = asked()
    request.inputs[0].name = "story"
    with pytest.raises(InvalidRequest, match="unexpected inference input 'story' for model 'rec"):
        read_inputs(request, KINDS, MAX_ROWS)


@pytest.mark.parametrize("names", [["k"], ["k", "k"], ["history", "history", "k"]])
def test_every_input_is_sent_once(names: list[str]) -> None:
    inputs = {tensor.name: tensor for tensor in asked().inputs}
    request = pb.ModelInferRequest(model_name="recommender", inputs=[inputs[n] for n in names])
    with pytest.raises(InvalidRequest, match=f"expected 2 inputs but got {len(names)} inputs"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_another_type_is_refused() -> None:
    request = asked()
    request.inputs[1].datatype = "INT64"
    with pytest.raises(InvalidRequest, match=r"'k' data-type is 'INT64', but model .* 'INT32'"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_shared_memory_is_refused() -> None:
    request = raw(asked())
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"
    with pytest.raises(InvalidRequest, match="'history' lies in shared memory"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_raw_contents_are_one_an_input() -> None:
    request = raw(asked())
    del request.raw_input_contents[1]
    with pytest.raises(InvalidRequest, match="1 raw_input_contents for 2 inputs"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_contents_are_not_sent_in_both_ways() -> None:
    request = raw(asked())
    request.inputs[1].contents.int_contents.extend([1, 2])
    with pytest.raises(InvalidRequest, match="'k' has contents, and the request raw_input"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_raw_numbers_have_the_size_that_the_shape_says() -> None:
    request = raw(asked())
    request.raw_input_contents[1] = b"123"
    with pytest.raises(InvalidRequest, match=r"byte size mismatch .* 'k'\. Expected 8, got 3"):
        read_inputs(request, KINDS, MAX_ROWS)


def test_a_typed_value_must_fit_its_type() -> None:
    request = pb.ModelInferRequest(model_name="image_encoder")
    tensor = request.inputs.add(name="pixels", datatype="UINT8", shape=(1, 2))
    tensor.contents.uint_contents.extend([255, 256])
    with pytest.raises(InvalidRequest, match="'pixels' holds a value that is no UINT8"):
        read_inputs(request, (PIXELS,), MAX_ROWS)


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "has 0 elements and 0 bytes behind them"),
        (struct.pack("<I", 9) + b"abc", "element 0 is said to have 9 bytes, 3 are left"),
        (join_bytes([b"a", b"b", b"c"]), "has 2 elements and 5 bytes behind them"),
        (join_bytes([b"a", b"b"]) + b"x", "has 2 elements and 1 bytes behind them"),
    ],
)
def test_raw_texts_that_do_not_add_up_are_refused(contents: bytes, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        split_bytes(contents, 2, "history")


def test_texts_survive_the_way_there_and_back() -> None:
    values = [b"", "ä-1".encode(), b"x" * 300]
    assert split_bytes(join_bytes(values), 3, "ids") == values


@pytest.mark.parametrize("is_raw", [True, False])
def test_outputs_are_written_as_the_inputs_were(is_raw: bool) -> None:
    response = pb.ModelInferResponse()
    add_output(response, TensorKind("ids", "BYTES", (-1, -1)), Texts([b"a"], (1, 1)), raw=is_raw)
    scores = np.array([[1.5, -np.inf]], np.float32)
    add_output(response, TensorKind("scores", "FP32", (-1, -1)), scores, raw=is_raw)
    assert [list(output.shape) for output in response.outputs] == [[1, 1], [1, 2]]
    if is_raw:
        assert response.raw_output_contents[0] == b"\x01\0\0\0a"
        assert np.frombuffer(response.raw_output_contents[1], "<f4").tolist() == [1.5, -np.inf]
    else:
        assert not response.raw_output_contents
        assert list(response.outputs[0].contents.bytes_contents) == [b"a"]
        assert list(response.outputs[1].contents.fp32_contents) == [1.5, -np.inf]


def test_outputs_come_in_the_order_asked_for() -> None:
    request = asked()
    assert wanted_outputs(request, KINDS) == [HISTORY, K]
    request.outputs.add(name="k")
    assert wanted_outputs(request, KINDS) == [K]
    request.outputs.add(name="mood")
    with pytest.raises(InvalidRequest, match="unexpected inference output 'mood'"):
        wanted_outputs(request, KINDS)


def test_an_output_with_a_wish_that_is_not_known_is_refused() -> None:
    request = asked()
    request.outputs.add(name="k").parameters["classification"].int64_param = 3
    with pytest.raises(InvalidRequest, match="'k' has the parameter 'classification'"):
        wanted_outputs(request, KINDS)
