"""Real `mmsr-export` processes on a small shop with encoders: a second each, torch imported."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from support.exported import small_run
from support.fork_server import Forked, ForkServer, fork_server

from mmsr.bundle.repository import Repository


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """A trained run, a repository whose `stable` is its bundle, and the server of processes."""

    root: Path
    run: Path
    repository: Repository
    server: ForkServer

    def start(self, run: Path, repository: Repository, *flags: str | Path) -> Forked:
        """Start `mmsr-export` of a run."""
        return self.server.start(run, "--repository", repository.root, *flags)

    def copy(self, target: Path) -> Repository:
        """Copy the repository, of which nothing was killed yet."""
        shutil.copytree(self.repository.root, target)
        return Repository(target)


@contextmanager
def exporting(root: Path) -> Iterator[Exporting]:
    """Train, start the server, and export once: what follows converts nothing."""
    torch.set_num_threads(1)
    run = small_run(root).checkpoint.parents[1]
    repository = Repository(root / "repository")
    with fork_server(root / "outputs", "mmsr-export") as server:
        made = Exporting(root=root, run=run, repository=repository, server=server)
        process = made.start(run, repository)
        assert process.code() == 0, process.output.read_text()
        yield made


def answer_of(process: Forked) -> dict[str, Any]:
    """Return what `mmsr-export --json` says; it must end well."""
    assert process.code() == 0, process.output.read_text()
    answer: dict[str, Any] = json.loads(process.output.read_text())
    return answer


def retrained(run: Path, target: Path, seed: int, scale: float) -> Path:
    """Write a run whose weights differ by noise of that size; return it."""
    shutil.copytree(run, target)
    random = torch.Generator().manual_seed(seed)
    for path in target.glob("checkpoints/*/model.safetensors"):
        weights = load_file(path)
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                weights[name] = tensor + scale * torch.randn(tensor.shape, generator=random)
        save_file(weights, path)
    return target
