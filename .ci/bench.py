"""Serve the bundle of the last demo and measure the server and the runner alone."""

import argparse
import os
import sys
from pathlib import Path

from stages import ROOT, StageError, Stages

VOID = 3  # exit code of mmsr-bench: measured, but the generator was late; the table says so


def main() -> None:
    """Measure, and write both reports beside the bundle."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--data", type=Path, help="the DATA of the demo, if it had one")
    data = parser.parse_args().data
    folder = ROOT / "demo" / ("toy" if data is None else data.resolve().name)
    repository = folder / "repository"
    if not repository.is_dir():
        again = "make demo" if data is None else f"make demo DATA={data}"
        sys.exit(f"error: {repository} is not there; make it with: {again}")
    stages = Stages(environment=dict(os.environ))
    try:
        with stages.server(repository, folder / "port") as target:
            common = ("--repository", repository, "--json", folder / "bench-server.json")
            page = ("--html", folder / "bench-server.html")
            stages.run("server", "mmsr-bench", "server", target, *common, *page, also_good=VOID)
        common = ("--repository", repository, "--json", folder / "bench-engine.json")
        stages.run("engine", "mmsr-bench", "engine", *common)
    except StageError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
