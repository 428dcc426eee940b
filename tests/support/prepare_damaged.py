"""A process that prepares damaged files, each as the command `mmsr-train prepare` does.

`python prepare_damaged.py FOLDER damaged|bombs SPACE_MIB FIRST LAST`: a line of JSON before each,
and after. It may take that much more address space than it has at its beginning.
"""

import io
import json
import random
import resource
import shutil
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from PIL import Image
from support.bombs import BOMBS
from support.odd_tables import WRITERS

from mmsr.bundle.errors import MmsrError
from mmsr.bundle.terminal import run
from mmsr.training.dataset import open_dataset
from mmsr.training.prepare.cli import app

MIB = 1 << 20
MOST_SAID = 2000  # characters of an error that a person is to read


def bounded(mib: int) -> None:
    """Bound this process's address space."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def commanded(arguments: list[str]) -> tuple[int, str]:
    """Run the command; return its exit code and what it wrote to standard error."""
    errors = io.StringIO()
    sys.argv = ["mmsr-train prepare", *arguments]
    with redirect_stdout(io.StringIO()), redirect_stderr(errors):
        try:
            run(app)
        except SystemExit as error:
            return (error.code if isinstance(error.code, int) else 1), errors.getvalue()
        except BaseException:
            return 1, errors.getvalue() + traceback.format_exc()
    return 0, errors.getvalue()


def how_it_ended(arguments: list[str], out: Path) -> str:
    """Say "used", "refused: ..." or "LOST: ..."."""
    code, said = commanded([*arguments, str(out)])
    if code == 0:
        try:
            prepared = open_dataset(out)
            prepared.item_table()
            prepared.user_ids()
        except MmsrError as error:
            return f"LOST: written, but {error}"
        return "used"
    one_line = said.startswith("error: ") and said.endswith("\n") and said.count("\n") == 1
    if (
        code == 1
        and one_line
        and said[:-1].isprintable()
        and len(said) < MOST_SAID
        and not out.exists()
    ):
        return f"refused: {said.strip()}"
    return f"LOST: code {code}: {said[-1500:]}"


def main(root: Path, kind: str, first: int, last: int) -> None:
    """Prepare one shop for each seed."""
    for seed in range(first, last):
        choose = random.Random(seed)
        folder = root / f"shop-{seed}"
        folder.mkdir()
        Image.new("RGB", (8, 8)).save(folder / "picture.png")
        write = BOMBS[seed % len(BOMBS)] if kind == "bombs" else choose.choice(WRITERS)
        arguments = write(folder, choose)
        print(json.dumps({"seed": seed, "input": f"{write.__name__} {arguments[0]}"}), flush=True)
        ended = how_it_ended(arguments, folder / "out")
        print(json.dumps({"seed": seed, "ended": ended}), flush=True)
        shutil.rmtree(folder)


if __name__ == "__main__":
    place, kind, *numbers = sys.argv[1:]
    space_mib, first, last = map(int, numbers)
    bounded(space_mib)
    main(Path(place), kind, first, last)
