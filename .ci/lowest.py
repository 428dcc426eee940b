"""Run the unit tests against the oldest releases that pyproject.toml allows, in .venv-lowest.

With Python 3.11 or 3.12: the oldest releases of some packages have no files for 3.13. What an old
release is warned of by a newer neighbour is no failure; further arguments go to pytest.
"""

import os
import subprocess
import sys

from environments import ROOT, environment, pip


def main() -> None:
    """Make the environment if need be, and test."""
    bin_folder = environment(".venv-lowest", "requirements-lowest.txt")
    pip(bin_folder, "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    tests = sys.argv[1:] or ["tests/unit"]
    options = ["-q", "-W", "ignore::DeprecationWarning", "-n", "2", "--dist", "loadfile"]
    done = subprocess.run(
        [str(bin_folder / "python"), "-m", "pytest", *options, *tests],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
