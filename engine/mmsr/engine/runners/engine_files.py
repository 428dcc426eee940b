"""The engines that lie beside a bundle, as `mmsr-repo engines` wrote them. Loads none.

REPO/engines/<bundle id>/<flavour>-<version>-<sm>/engine.json, see proto/README.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import BundleError, MmsrError
from mmsr.bundle.files import read_json, sha256_file
from mmsr.engine.runners.buckets import BATCH, ITEMS, Steps, doubling

ENGINE_MANIFEST = "engine.json"
ENGINE_FORMAT = 1
SHORTEST = {"L": 8, "E": 16, "T": 8}  # the least step of a dimension
RESULTS = "k"  # the input that is itself a size
RESULT_STEPS = (10, 20, 50, 100, 200, 500)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineFile:
    """One engine on disk and what it was built for."""

    path: Path
    sha256: str
    flavour: str  # "tensorrt", "tensorrt-rtx"
    version: str  # of it
    sm: str | None  # kind of GPU; None: any
    precision: str
    profiles: tuple[Mapping[str, Mapping[str, int]], ...]  # dimension -> least, typical, most
    proven_on: str | None = None  # kind of GPU on which it answered as it should; None: nowhere

    def __str__(self) -> str:
        """Return what it is for."""
        where = "" if self.sm is None else f" on {self.sm}"
        return f"{self.flavour} {self.version}{where}"

    def read(self) -> bytes:
        """Return the plan; `BundleError` if it is not what was built."""
        if not self.path.is_file() or sha256_file(self.path) != self.sha256:
            raise BundleError(f"{self.path} is damaged; build it again with mmsr-repo engines")
        return self.path.read_bytes()


def find_engines(bundle: Path, graph: str) -> list[EngineFile]:
    """Return the engines of a bundle's graph; what cannot be read is logged and passed over."""
    found = []
    root = bundle.parents[1] / "engines" / bundle.name
    for path in sorted(root.glob(f"*/{ENGINE_MANIFEST}")):
        try:
            engine = read_engine(path, bundle.name, graph)
        except MmsrError as error:
            log.warning("%s; it is not used", error)
            continue
        if engine is not None:
            found.append(engine)
    return found


def read_engine(path: Path, bundle_id: str, graph: str) -> EngineFile | None:
    """Read one manifest; None if it has no engine of that graph."""
    raw = read_json(path, "the manifest of engines")
    try:
        if raw["format_version"] != ENGINE_FORMAT or raw["bundle_id"] != bundle_id:
            raise BundleError(
                f"{path} is of format {raw['format_version']} and bundle {raw['bundle_id']}, "
                f"expected {ENGINE_FORMAT} and {bundle_id}"
            )
        entry = raw["engines"].get(graph)
        if entry is None:
            return None
        any_gpu = raw["flavour"] == "tensorrt-rtx" or raw["gpu"] is None
        return EngineFile(
            path=path.parent / Path(entry["plan"]).name,
            sha256=entry["sha256"],
            flavour=raw["flavour"],
            version=raw["version"],
            sm=None if any_gpu else raw["gpu"]["sm"],
            precision=entry["precision"],
            profiles=tuple(entry["profiles"]),
            proven_on=raw["gpu"]["sm"] if raw["gpu"] and entry.get("parity") else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({error!r})") from None


def steps_of(engine: EngineFile) -> Steps:
    """Return the sizes to pad to: the profiles' own batches, and few of everything else."""
    first = engine.profiles[0]
    batch = BATCH if BATCH in first else ITEMS
    return Steps(
        dims={
            batch: tuple(profile[batch]["typical"] for profile in engine.profiles),
            **{
                name: doubling(least, first[name]["most"])
                for name, least in SHORTEST.items()
                if name in first
            },
        },
        values={RESULTS: result_steps(first[RESULTS]["most"])} if RESULTS in first else {},
        batch=batch,
    )


def result_steps(most: int) -> tuple[int, ...]:
    """Return the numbers of results that are computed, `most` the last."""
    return (*(size for size in RESULT_STEPS if size < most), most)


def sequence_steps(*, batch: int, length: int, excluded: int, results: int) -> Steps:
    """Return the steps of a sequence graph that no profile bounds; each argument is the largest."""
    return Steps(
        dims={BATCH: doubling(1, batch), "L": doubling(8, length), "E": doubling(16, excluded)},
        values={RESULTS: result_steps(results)},
    )


def encoder_steps(inputs: Any, *, batch: int, length: int) -> Steps:
    """Return the steps of an encoder with these inputs (`TensorSpec`s)."""
    dims = {BATCH: doubling(1, batch)}
    if any("T" in tensor.shape for tensor in inputs):
        dims["T"] = doubling(SHORTEST["T"], length)
    return Steps(dims=dims)
