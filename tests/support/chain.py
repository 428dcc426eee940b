"""Two trained runs and their bundles, and every way from a history to an answer that runs here.

All ways take item ids and return ids with scores, best first, without the items of the history.
"""

# B histories, N items, C table rows

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from support.agreement import TOLERANCE, torch_scores
from support.exporting import retrained
from support.fake_device import FakeDevice, FakeEngine, open_session
from support.small_features import write_features
from support.small_shop import write_shop

from mmsr.bundle.catalogue import load_catalogue
from mmsr.bundle.manifest import load_manifest
from mmsr.bundle.repository import Repository
from mmsr.engine.model import RowRequest, SequenceModel
from mmsr.engine.opened import OpenedBundle, open_bundle
from mmsr.engine.runners.base import Runner
from mmsr.engine.runners.buckets import Steps
from mmsr.engine.runners.choose import Runners
from mmsr.engine.runners.engine_files import sequence_steps
from mmsr.engine.runners.fallback import WithFallback
from mmsr.engine.runners.onnx_cuda import OnnxCudaRunner
from mmsr.engine.runners.tensorrt import TensorRTRunner
from mmsr.export.build import Stages, write_bundle
from mmsr.export.choose_precision import prove_in_precision
from mmsr.training.config import parse_recipe
from mmsr.training.fit import Hooks
from mmsr.training.run import TrainedRun, open_run, start_run

Answer = list[tuple[str, float]]
NOISE = 0.05  # of the second run's weights
LONGEST = 8  # of a history
BATCHES = (1, 4, 64)  # that the fake engine has profiles for


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A repository whose bundles are two runs in fp32, and the first in int8."""

    repository: Repository
    first: TrainedRun
    second: TrainedRun
    bundles: tuple[str, str, str]  # ids: of the first run, the second, the first in int8

    def folder(self, place: int) -> Path:
        """Return where a bundle lies."""
        return self.repository.path(self.bundles[place])


def make_chain(root: Path) -> Chain:
    """Train one run, make another one of it, and publish; `stable` is the first's bundle."""
    torch.set_num_threads(1)
    shop = write_features(write_shop(root / "data"), "text")
    recipe = parse_recipe(
        {
            "model": {
                "sources": ["id", "position", "text"],
                "width": 16,
                "side_width": 8,
                "feedforward_width": 16,
                "max_length": LONGEST,
                "blocks": 1,
            },
            "fit": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01},
        },
        "recipe.toml",
    )
    quiet = Hooks(step=lambda *_: None, epoch=lambda _: None)
    start_run(recipe, shop, root / "first", resume=False).run(root / "first", quiet)
    retrained(root / "first", root / "second", seed=1, scale=NOISE)
    first, second = opened(root / "first"), opened(root / "second")
    repository = Repository(root / "repository")
    repository.create()
    bundles = (
        published(first, repository, "fp32"),
        published(second, repository, "fp32"),
        published(first, repository, "int8"),
    )
    repository.promote(bundles[0], "stable")
    repository.promote(bundles[2], "int8")
    return Chain(repository=repository, first=first, second=second, bundles=bundles)


def opened(run: Path) -> TrainedRun:
    """Open a run whose texts were made up: they have no encoder."""
    trained = open_run(run, device=torch.device("cpu"))
    return replace(trained, info=replace(trained.info, features={}))


def published(run: TrainedRun, repository: Repository, precision: str) -> str:
    """Publish a run's bundle without a gate; return its id."""
    with repository.stage() as folder:
        write_bundle(run, folder, "real", repository, Stages(tell=lambda _: None))
        prove_in_precision(precision, folder, lambda: None, nullcontext)
        return repository.publish(folder)


def histories(seed: int, count: int, items: int) -> list[list[str]]:
    """Return histories of all lengths, also longer than the model reads, with repeats."""
    random = np.random.default_rng(seed)
    lengths = [1, LONGEST, LONGEST + 1, 20, *random.integers(1, 20, count - 4).tolist()]
    return [[f"item-{n}" for n in random.integers(0, items, length)] for length in lengths]


class Judge:
    """PyTorch's scores of a run, and what is wrong with answers beside them."""

    def __init__(self, run: TrainedRun, asked: Sequence[Sequence[str]]) -> None:
        ids: list[str] = run.dataset.item_table(["item_id"])["item_id"].to_pylist()
        self.row_of = {item_id: row for row, item_id in enumerate(ids, start=1)}
        self.asked = asked
        rows = [np.array([self.row_of[i] for i in line], np.int32) for line in asked]
        self.scores_BN = torch_scores(run, rows).numpy()

    def check(self, answers: Sequence[Answer], ks: Sequence[int]) -> None:
        """Compare the answers to all histories."""
        assert len(answers) == len(self.asked)
        for line, answer, k, scores_N in zip(self.asked, answers, ks, self.scores_BN, strict=True):
            self._check_one(line, answer, k, scores_N)

    def _check_one(
        self, line: Sequence[str], answer: Answer, k: int, scores_N: npt.NDArray[np.float32]
    ) -> None:
        tolerance = TOLERANCE * max(1.0, float(np.abs(scores_N[1:]).max()))
        seen = {self.row_of[item_id] for item_id in line}
        others = [row for row in range(1, len(scores_N)) if row not in seen]
        best_K = np.sort(scores_N[others])[::-1][:k]
        rows = [self.row_of[item_id] for item_id, _ in answer]
        assert len(rows) == len(set(rows)) == len(best_K)
        assert not seen & set(rows)
        assert scores_N[rows].min() >= best_K[-1] - tolerance
        scores_K = np.array([score for _, score in answer])
        np.testing.assert_allclose(scores_K, scores_N[rows], rtol=0, atol=tolerance)
        assert scores_K.tolist() == sorted(scores_K.tolist(), reverse=True)


def by_onnxruntime(folder: Path, asked: Sequence[Sequence[str]], ks: Sequence[int]) -> list[Answer]:
    """Ask the bundle's graph by ONNX Runtime and the bundle's README alone, all in one batch."""
    manifest, ids = load_manifest(folder), load_catalogue(folder).item_ids
    row_of = {item_id: row for row, item_id in enumerate(ids, start=1)}
    names = ("item_inputs", "item_outputs")
    tables = {name: np.load(folder / f"tables/{name}.npy") for name in names}
    no_item = [0, *range(len(ids) + 1, manifest.tables.capacity)]
    read = [[row_of[item_id] for item_id in line][-manifest.max_length :] for line in asked]
    barred = [[*no_item, *(row_of[item_id] for item_id in line)] for line in asked]
    inputs = {
        "history": padded(read),
        "length": np.array(list(map(len, read)), np.int64),
        "excluded": padded(barred),
        "k": np.array([min(max(ks), len(ids))], np.int64),
        **tables,
    }
    session = open_session(folder / manifest.graphs["sequence"].file)
    rows_BK, scores_BK = session.run(["rows", "scores"], inputs)
    answers = []
    for rows, scores, k in zip(rows_BK.tolist(), scores_BK.tolist(), ks, strict=True):
        pairs = zip(rows, scores, strict=True)
        answers.append([(ids[row - 1], score) for row, score in pairs if score > -np.inf][:k])
    return answers


def padded(lists: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Return lists as lines of one array, zeros on the right."""
    lines = np.zeros((len(lists), max(map(len, lists))), np.int64)
    for line, values in zip(lines, lists, strict=True):
        line[: len(values)] = values
    return lines


def cpu(bundle: OpenedBundle) -> Runner:
    """Open ONNX Runtime on the CPU, as a server does."""
    return Runners(wanted="cpu").open(bundle, "sequence").runner


def cuda(bundle: OpenedBundle) -> Runner:
    """Open the runner of CUDA on a device that the host plays."""
    items = bundle.manifest.tables.items
    steps = sequence_steps(batch=16, length=LONGEST, excluded=1024, results=items)
    session = open_session(bundle.sequence_path)
    return OnnxCudaRunner(session, bundle.sequence_spec, steps, FakeDevice(), place="cpu")


def tensorrt(bundle: OpenedBundle) -> Runner:
    """Open the runner of TensorRT whose engine and device are played."""
    steps = Steps(
        dims={"B": BATCHES, "L": (4, LONGEST), "E": (32, 256)}, values={"k": (10, 30, 64)}
    )
    profiles = [
        {"B": (1 if before == 0 else before + 1, size), "L": (1, LONGEST), "E": (1, 256)}
        for before, size in zip((0, *BATCHES), BATCHES, strict=False)
    ]
    device, spec = FakeDevice(), bundle.sequence_spec
    engine = FakeEngine(bundle.sequence_path, spec, profiles, device)
    runner = TensorRTRunner(engine, spec, steps, device, name="fake TensorRT")
    return WithFallback(runner, lambda: cpu(bundle))


def by_runner(
    folder: Path,
    open_runner: Callable[[OpenedBundle], Runner],
    asked: Sequence[Sequence[str]],
    ks: Sequence[int],
    *,
    batch: int,
) -> list[Answer]:
    """Ask the engine's model with one of its runners, so many histories at a time."""
    bundle = open_bundle(folder)
    model = SequenceModel(bundle, open_runner(bundle))
    model.bind()
    ids = bundle.catalogue.item_ids
    row_of = {item_id: row for row, item_id in enumerate(ids, start=1)}
    requests = []
    for line, k in zip(asked, ks, strict=True):
        rows = [row_of[item_id] for item_id in line]
        requests.append(RowRequest(rows[-LONGEST:], sorted(set(rows)), min(k, len(ids))))
    answers = [
        answer
        for begin in range(0, len(requests), batch)
        for answer in model.recommend(requests[begin : begin + batch])
    ]
    model.close()
    return [
        [(ids[row - 1], score) for row, score in zip(rows, scores, strict=True)]
        for rows, scores in answers
    ]
