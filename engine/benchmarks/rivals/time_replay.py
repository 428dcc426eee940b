"""Times RePlay's compiled SASRec (OpenVINO) in blocks. Runs in RePlay's own environment.

It is a library without a server and cannot load our weights: an untrained model of equal sizes.
Reads one JSON line a block, {"batch": 16, "seconds": 0.5}, and writes one with what it took.
"""

import json
import os
import sys
import time
from typing import Any, TextIO

import numpy as np
import torch
from replay.data import FeatureHint, FeatureType  # type: ignore[import-not-found]
from replay.data.nn import TensorFeatureInfo, TensorSchema  # type: ignore[import-not-found]
from replay.models.nn.sequential.compiled import SasRecCompiled  # type: ignore[import-not-found]
from replay.models.nn.sequential.sasrec import SasRec  # type: ignore[import-not-found]

ITEM = "item_id"
LEAST_CALLS = 3


def untrained(items: int, width: int, length: int, blocks: int, heads: int) -> Any:
    """Return RePlay's own SASRec as training would begin with it."""
    schema = TensorSchema(
        [
            TensorFeatureInfo(
                ITEM,
                is_seq=True,
                feature_type=FeatureType.CATEGORICAL,
                feature_hint=FeatureHint.ITEM_ID,
                cardinality=items,
                padding_value=items,
                embedding_dim=width,
            )
        ]
    )
    return SasRec(
        schema, block_count=blocks, head_count=heads, hidden_size=width, max_seq_len=length
    ).eval()


def padded(histories: list[list[int]], items: int, length: int) -> dict[str, Any]:
    """Return a batch as it wants one: items counted from 0, padding on the left."""
    rows_BL = np.full((len(histories), length), items, np.int64)
    for line, history in zip(rows_BL, histories, strict=True):
        line[length - len(history) :] = np.array(history) - 1
    rows = torch.from_numpy(rows_BL)
    return {"feature_tensor": {ITEM: rows}, "padding_mask": rows != items}


class Timer:
    """Compiled for each batch size, as it is fastest."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        model = untrained(*(job[name] for name in ("items", "width", "length", "blocks", "heads")))
        self.compiled = {
            batch: SasRecCompiled.compile(
                model, mode="batch", batch_size=batch, num_threads=job["threads"]
            )
            for batch in job["batches"]
        }

    def answer(self, batch: int, histories: list[list[int]]) -> tuple[float, float]:
        """Answer once; return the seconds to the scores, and to the K best unseen items."""
        began = time.perf_counter()
        inputs = padded(histories, self.job["items"], self.job["length"])
        rows = inputs["feature_tensor"][ITEM]
        scores = self.compiled[batch].predict(inputs)
        scored = time.perf_counter()
        barred = torch.where(inputs["padding_mask"], rows, rows[:, -1:])  # an item of the history
        scores.scatter_(1, barred, -torch.inf).topk(self.job["k"], dim=1)
        return scored - began, time.perf_counter() - began

    def block(self, batch: int, seconds: float) -> dict[str, list[float]]:
        """Answer again and again."""
        times: list[tuple[float, float]] = []
        histories, ends = self.job["histories"], time.perf_counter() + seconds
        cpu_s = time.process_time()
        while len(times) < LEAST_CALLS or time.perf_counter() < ends:
            at = len(times) * batch % (len(histories) - batch)
            times.append(self.answer(batch, histories[at : at + batch]))
        cpu_s = time.process_time() - cpu_s
        return {
            "scored_s": [scored for scored, _ in times],
            "ranked_s": [ranked for _, ranked in times],
            "cpu_s": [cpu_s / len(times)],
        }


def tell(answers: TextIO, message: dict[str, list[float]]) -> None:
    """Write one line."""
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def main() -> None:
    """Serve blocks until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    timer = Timer(job)
    tell(answers, {"ready": []})
    for line in sys.stdin:
        order = json.loads(line)
        tell(answers, timer.block(order["batch"], order["seconds"]))


if __name__ == "__main__":
    main()
