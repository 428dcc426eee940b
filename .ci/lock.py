"""Resolve the sets of packages in .ci anew, each with the hashes of all its files.

    requirements.txt          to develop and test with, on every platform and Python we support
    requirements-cpu.txt      to serve with; of the same versions
    requirements-cuda.txt     to serve with on an NVIDIA GPU; of the same versions
    requirements-build.txt    what builds the wheel; of the same versions
    requirements-lowest.txt   the oldest releases that pyproject.toml allows, for `make test-lowest`
    requirements-tools.txt    what `make sbom` runs, in an environment of its own

`python .ci/lock.py SET...` resolves those alone. uv does it, from an environment of its own, so
that it is no dependency of the project. TensorRT is in none: its libraries come from its vendor.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = ROOT / ".venv-lock"
UV = "uv>=0.9,<0.12"
COMMON = ("--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url")
QUIET = ("--no-annotate", "--no-header", "--quiet")
SAME = ("-c", ".ci/requirements.txt")
SERVE = ("--extra", "engine", "--extra", "otel")
PROJECT, ALL = ("pyproject.toml",), "all"
# TensorRT-RTX builds every exported graph in the tests, without a GPU.
EVERYTHING = ("--extra", "export", "--extra", "otel", "--extra", "tensorrt-rtx", "--group", "dev")
OLDEST = ("--resolution", "lowest-direct", "--extra", "export", "--extra", "otel", "--group")
SETS: dict[str, tuple[str, ...]] = {
    ALL: (*EVERYTHING, "-c", ".ci/constraints.in", *PROJECT),
    "cpu": (*SERVE, *SAME, *PROJECT),
    "cuda": (*SERVE, "--extra", "cuda", *SAME, *PROJECT),
    "build": ("--group", "build", *SAME),
    "lowest": (*OLDEST, "test", *PROJECT),
    "tools": ("--group", "tools"),
}


def lock_of(name: str) -> Path:
    """Return the file of a set."""
    return ROOT / ".ci" / ("requirements.txt" if name == ALL else f"requirements-{name}.txt")


def resolve(name: str) -> int:
    """Resolve one set from nothing; return uv's exit code."""
    uv = TOOL / "bin" / "uv"
    if not uv.exists():
        venv.create(TOOL, with_pip=True)
        pip = [str(TOOL / "bin" / "python"), "-m", "pip", "install", "-q", "--no-cache-dir", UV]
        subprocess.run(pip, check=True)
    output = lock_of(name)
    fresh = output.with_suffix(".new")  # uv would keep what an old file has
    command = [str(uv), "pip", "compile", *COMMON, *QUIET, *SETS[name], "-o", str(fresh)]
    environment = {**os.environ, "UV_CACHE_DIR": str(TOOL / "cache")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode == 0:
        fresh.replace(output)
    return done.returncode


def main() -> None:
    """Resolve the sets that are named, or all."""
    names = sys.argv[1:] or list(SETS)
    if unknown := set(names) - SETS.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}; expected some of {', '.join(SETS)}")
    for name in names:
        if code := resolve(name):
            sys.exit(code)
        print(f"lock: {lock_of(name).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
