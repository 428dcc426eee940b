"""Our proto of the Open Inference Protocol against Triton's, as its own client carries it."""

import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from support.tree import ROOT

from mmsr.oip import inference_pb2, model_config_pb2

Field = descriptor_pb2.FieldDescriptorProto
# Of these messages and services we have a part; of every other one that we have, all.
PARTS = {
    "ModelConfig",
    "ModelInput",
    "ModelOutput",
    "ModelDynamicBatching",
    "GRPCInferenceService",
}


@pytest.fixture(scope="module")
def theirs() -> list[descriptor_pb2.FileDescriptorProto]:
    program = ROOT / "tests" / "support" / "oip_descriptors.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parse = descriptor_pb2.FileDescriptorProto.FromString
    return [parse(bytes.fromhex(line)) for line in done.stdout.split()]


@pytest.fixture(scope="module")
def ours() -> list[descriptor_pb2.FileDescriptorProto]:
    found = []
    for module in (inference_pb2, model_config_pb2):
        described = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(described)
        found.append(described)
    return found


def messages(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> dict[str, Any]:
    """Return every message by name, nested ones as Outer.Inner."""

    def walk(prefix: str, found: Iterable[Any]) -> Iterator[tuple[str, Any]]:
        for message in found:
            yield prefix + message.name, message
            yield from walk(f"{prefix}{message.name}.", message.nested_type)

    return dict(pair for file in files for pair in walk("", file.message_type))


def fields(message: Any) -> dict[int, tuple[str, ...]]:
    """Return what the wire and a client's code see of the fields, by number."""
    oneofs = [oneof.name for oneof in message.oneof_decl]
    return {
        field.number: (
            field.name,
            Field.Type.Name(field.type),
            Field.Label.Name(field.label),
            field.type_name,
            oneofs[field.oneof_index] if field.HasField("oneof_index") else "",
        )
        for field in message.field
    }


def test_the_package_is_the_published_one(ours: Any, theirs: Any) -> None:
    assert {file.package for file in [*ours, *theirs]} == {"inference"}


def test_every_message_is_field_by_field_the_published_one(ours: Any, theirs: Any) -> None:
    published = messages(theirs)
    found = messages(ours)
    assert len(found) > 40
    for name, message in found.items():
        have, expected = fields(message), fields(published[name])
        if name in PARTS:
            expected = {number: expected[number] for number in have}
        assert have == expected, name
        assert message.options.map_entry == published[name].options.map_entry


def test_every_method_takes_and_gives_what_is_published(ours: Any, theirs: Any) -> None:
    [published] = [service for file in theirs for service in file.service]
    [service] = [service for file in ours for service in file.service]
    assert service.name == published.name
    by_name = {method.name: method for method in published.method}
    assert len(service.method) == 9
    for method in service.method:
        expected = by_name[method.name]
        assert (method.input_type, method.output_type) == (
            expected.input_type,
            expected.output_type,
        )
        assert (method.client_streaming, method.server_streaming) == (False, False)
        assert (expected.client_streaming, expected.server_streaming) == (False, False)


def test_element_types_have_the_published_numbers(ours: Any, theirs: Any) -> None:
    def numbers(files: Any) -> dict[str, dict[str, int]]:
        return {e.name: {v.name: v.number for v in e.value} for f in files for e in f.enum_type}

    assert numbers(ours)["DataType"] == numbers(theirs)["DataType"]
