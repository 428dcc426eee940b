"""Parses config.pbtxt files with Triton's own proto and prints them as JSON; in its own process.

Triton's generated code declares a package `inference`, which can be registered only once a process.
"""

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2


def main() -> None:
    """Print a list of the configurations in the files named as arguments."""
    parsed = []
    for path in sys.argv[1:]:
        config = text_format.Parse(Path(path).read_text(), model_config_pb2.ModelConfig())
        parsed.append(json_format.MessageToDict(config, preserving_proto_field_name=True))
    sys.stdout.write(json.dumps(parsed))


if __name__ == "__main__":
    main()
