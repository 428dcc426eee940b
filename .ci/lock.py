"""Resolve .ci/requirements.txt: one set with hashes, for every platform and Python we support.

uv does it, from an environment of its own, so that it is no dependency of the project.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOL = ROOT / ".venv-lock"
UV = "uv>=0.9,<0.12"
OPTIONS = [
    *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-index-url"),
    *("--no-annotate", "--no-header", "--quiet", "-c", ".ci/constraints.in"),
    # TensorRT-RTX builds every exported graph in the tests, without a GPU.
    *("--extra", "export", "--extra", "otel", "--extra", "tensorrt-rtx", "--group", "dev"),
]


def main() -> None:
    """Install uv below the tree if need be, and resolve."""
    uv = TOOL / "bin" / "uv"
    if not uv.exists():
        venv.create(TOOL, with_pip=True)
        pip = [str(TOOL / "bin" / "python"), "-m", "pip", "install", "-q", "--no-cache-dir", UV]
        subprocess.run(pip, check=True)
    command = [str(uv), "pip", "compile", *OPTIONS, *sys.argv[1:], "pyproject.toml"]
    output = ["-o", ".ci/requirements.txt"]
    environment = {**os.environ, "UV_CACHE_DIR": str(TOOL / "cache")}
    done = subprocess.run([*command, *output], cwd=ROOT, env=environment, check=False)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
