"""Prints tritonclient's descriptors of package `inference` as hexadecimal; in its own process.

Its generated code declares the same package as ours, which can be registered once a process.
"""

import sys

from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2


def main() -> None:
    """Print one FileDescriptorProto a line."""
    for module in (service_pb2, model_config_pb2):
        described = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(described)
        sys.stdout.write(described.SerializeToString().hex() + "\n")


if __name__ == "__main__":
    main()
