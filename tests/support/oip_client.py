"""An unmodified tritonclient against a server of ours; in its own process, prints JSON.

    python oip_client.py HOST:PORT < requests

Its generated code declares the same package as ours, which can be registered once a process. Each
line of the input is one step, each line of the output what it gave.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

Step = dict[str, Any]


class Caller:
    """One step of the test after another."""

    def __init__(self, target: str) -> None:
        self.client = triton.InferenceServerClient(target)

    def health(self, step: Step) -> Any:
        client = self.client
        ready = {name: client.is_model_ready(name) for name in step["models"]}
        versions = [client.is_model_ready("recommender", version) for version in ("1", "2")]
        return [client.is_server_live(), client.is_server_ready(), ready, versions]

    def server(self, step: Step) -> Any:
        return self.client.get_server_metadata(as_json=True)

    def metadata(self, step: Step) -> Any:
        return self.client.get_model_metadata(step["model"], as_json=True)

    def config(self, step: Step) -> Any:
        return self.client.get_model_config(step["model"], as_json=True)["config"]

    def index(self, step: Step) -> Any:
        return self.client.get_model_repository_index(as_json=True)

    def statistics(self, step: Step) -> Any:
        return self.client.get_inference_statistics(step.get("model", ""), as_json=True)

    def infer(self, step: Step) -> Any:
        inputs = []
        for name, (dtype, values) in step["inputs"].items():
            array = (
                np.array([[v.encode() for v in row] for row in values])
                if (dtype == "object")
                else np.array(values, dtype)
            )
            array = array.astype(np.object_) if dtype == "object" else array
            tensor = triton.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
            inputs.append(tensor.set_data_from_numpy(array))
        outputs = [triton.InferRequestedOutput(name) for name in step.get("outputs", [])] or None
        result = self.client.infer(
            step["model"],
            inputs,
            outputs=outputs,
            request_id="r-1",
            parameters=step.get("parameters"),
            timeout=step.get("timeout_us"),
        )
        response = result.get_response()
        found = {output.name: plain(result.as_numpy(output.name)) for output in response.outputs}
        return {"id": response.id, "bundle": response.parameters["bundle"].string_param, **found}


def plain(array: Any) -> Any:
    """Return an array as JSON values."""
    if array.dtype == np.object_:
        return [[value.decode() for value in row] for row in array]
    return array.tolist()


def main() -> None:
    """Take the steps; an error of the server is its status and text."""
    caller = Caller(sys.argv[1])
    for line in sys.stdin:
        step = json.loads(line)
        call: Callable[[Step], Any] = getattr(caller, step["do"])
        try:
            found = call(step)
        except InferenceServerException as error:
            found = {"status": error.status(), "text": error.message()}
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
