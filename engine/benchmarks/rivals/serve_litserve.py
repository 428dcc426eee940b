"""LitServe around the shared model: HTTP, its batched loop. Runs in LitServe's own environment."""

from typing import Any

import litserve  # type: ignore[import-not-found]

from benchmarks.rivals.shared_model import Query, Ranking, open_shared, read_order

Body = dict[str, Any]


class Recommender(litserve.LitAPI):  # type: ignore[misc]
    """Its hooks; a batch goes through `predict` as one list."""

    def setup(self, device: str) -> None:
        """Load the model in the inference worker."""
        self.model = open_shared(read_order())

    def decode_request(self, request: Body) -> Query:
        """Translate a body."""
        return Query(request["history"], request["k"])

    def batch(self, inputs: list[Query]) -> list[Query]:
        """Leave it to the model to pad."""
        return inputs

    def predict(self, x: list[Query]) -> list[Ranking]:
        """Answer a batch."""
        return self.model.recommend(x)

    def unbatch(self, output: list[Ranking]) -> list[Ranking]:
        """Hand the answers out."""
        return output

    def encode_response(self, output: Ranking) -> Body:
        """Translate an answer."""
        return output._asdict()


def main() -> None:
    """Serve with one HTTP process and one inference worker."""
    order = read_order()
    api = Recommender(max_batch_size=order.max_batch, batch_timeout=order.wait_ms / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(
        host="127.0.0.1",
        port=order.port,
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
        access_log=False,
    )


if __name__ == "__main__":
    main()
