"""The whole way: a shop's data, features, training, export, serving, five recommendations, bench.

Everything is written below demo/. What a demo before this one finished is kept: prepared data,
features, epochs of training. `rm -r demo` starts from nothing.
"""

import argparse
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from stages import BIN, ROOT, StageError, Stages

TOY_ITEMS, TOY_USERS = 400, 1500
REAL_EPOCHS = 2  # of the 40 in the recipe, so that it ends in 20 minutes on 2 cores
NO_WEIGHTS = 3  # exit code of mmsr-train features
VOID = 3  # exit code of mmsr-bench: measured, but the generator was late
VGG = "weights/vgg16_features_torchvision.safetensors"
BENCH = ["--concurrency", "16", "--rate", "100", "--warm-up-s", "1", "--duration-s", "4"]


@dataclass(frozen=True)
class Demo:
    """Which data, and where everything goes."""

    data: Path | None  # a shop's own files; None: the generated shop
    folder: Path
    epochs: int | None

    @property
    def recipe(self) -> Path:
        """The recipe that is trained."""
        name = "toy" if self.data is None else self.data.name
        recipe = ROOT / "training" / "configs" / f"{name}.toml"
        if not recipe.is_file():
            known = ", ".join(sorted(path.stem for path in recipe.parent.glob("*.toml")))
            raise StageError(f"no recipe for data named {name!r}; there are: {known}")
        return recipe


def prepare(demo: Demo, stages: Stages) -> None:
    """Bring the data into the form that training reads, unless an earlier demo has."""
    prepared = demo.folder / "data"
    if (prepared / "data.json").exists():
        print(f"\n== prepare: kept from an earlier demo: {prepared}")
        return
    if demo.data is None:
        sizes = ("--items", str(TOY_ITEMS), "--users", str(TOY_USERS), "--seed", "0")
        stages.run("prepare", "mmsr-train", "prepare", "toy", prepared, *sizes)
    else:
        command = ("mmsr-train", "prepare", "table", demo.data, prepared)
        stages.run("prepare", *command, "--config", demo.recipe)


def encode(demo: Demo, stages: Stages) -> None:
    """Encode images and texts: with given weights, the hub's, or as a last resort random ones."""
    command = ("mmsr-train", "features", demo.folder / "data", "--config", demo.recipe)
    if demo.data is not None and (demo.data.parent / VGG).is_file():
        stages.run("features", *command, "--image-weights", demo.data.parent / VGG)
        return
    try:
        stages.run("features", *command)
        print("image weights: pre-trained, from the hub")
    except StageError as error:
        if error.exit_code != NO_WEIGHTS:
            raise
        stages.done.pop()
        print("image weights: random ones, since no pre-trained ones can be had; texts: MiniLM")
        stages.run("features", *command, "--random-weights")


def train(demo: Demo, stages: Stages) -> None:
    """Train; go on where an earlier demo stopped, unless its data or recipe were others."""
    run = demo.folder / "run"
    epochs = () if demo.epochs is None else ("--epochs", str(demo.epochs))
    command = ("mmsr-train", "fit", demo.recipe, "--data", demo.folder / "data", "--out", run)
    if (run / "run.json").exists():
        stages.run("fit", *command, *epochs, "--resume")
    else:
        stages.run("fit", *command, *epochs)


def history_of_a_user(repository: Path) -> list[str]:
    """Return the last five items of the first probe user who has as many."""
    from mmsr.bundle.repository import Repository
    from mmsr.engine.bench.histories import load_histories

    histories = load_histories(Repository(repository).resolve("stable"))
    return next((h[-5:] for h in histories if len(h) >= 5), histories[0])


def serve_and_ask(demo: Demo, stages: Stages) -> None:
    """Serve the bundle, print five recommendations with titles, and measure for ten seconds."""
    repository = demo.folder / "repository"
    with stages.server(repository, demo.folder / "port") as target:
        history = [part for item in history_of_a_user(repository) for part in ("--history", item)]
        client = ("python", "-m", "mmsr.engine.client", target, *history)
        stages.run("recommend", *client, "-k", "5", "--repository", repository)
        report = demo.folder / "bench.json"
        common = ("--repository", repository, "--json", report)
        # A busy machine may void a measurement; the report says so, and the demo goes on.
        stages.run("bench", "mmsr-bench", "server", target, *common, *BENCH, also_good=VOID)


def run(demo: Demo, stages: Stages) -> None:
    """Run every stage."""
    repository = demo.folder / "repository"
    prepare(demo, stages)
    encode(demo, stages)
    train(demo, stages)
    stages.run(
        "evaluate", "mmsr-train", "evaluate", demo.folder / "run", "--data", demo.folder / "data"
    )
    stages.run("export", "mmsr-export", demo.folder / "run", "--repository", repository)
    serve_and_ask(demo, stages)


def next_steps(demo: Demo) -> str:
    """Return what one would do next, as commands that can be pasted in the project's folder."""
    shown, bin_ = as_typed(demo.folder), as_typed(BIN)
    repository, run = f"{shown}/repository", f"{shown}/run"
    items = history_of_a_user(demo.folder / "repository")
    history = shlex.join(f"--history={item}" for item in items)
    user = shlex.quote(first_user(demo.folder / "data"))
    steps = (
        ("serve it", f"{bin_}/mmsr-serve --repository {repository}"),
        (
            "ask the server, in another terminal",
            f"{bin_}/python -m mmsr.engine.client 127.0.0.1:50051 {history} -k 5 "
            f"--repository {repository}",
        ),
        (
            "see how the training went, in a browser",
            f"{bin_}/mmsr-train report {run} --out {shown}/report.html",
        ),
        (
            "see what a user's recommendations come from",
            f"{bin_}/mmsr-train explain {run} --user {user} --out {shown}/user.png",
        ),
    )
    lines = [f"  {what}:\n    {command}" for what, command in steps]
    return "\n".join([f"\nEverything is in {shown}/. What to do next:", *lines])


def as_typed(path: Path) -> str:
    """Return a path as one would type it in the project's folder."""
    return shlex.quote(str(path).removeprefix(f"{ROOT}/"))


def first_user(data: Path) -> str:
    """Return the id of the first user who has bought something."""
    from mmsr.training.dataset import open_dataset

    return open_dataset(data).user_ids()[0]


def read_arguments() -> Demo:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument("--data", type=Path, help="a shop's own files, e.g. ../shared/data/ml1m")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    arguments = parser.parse_args()
    data: Path | None = arguments.data.resolve() if arguments.data else None
    if data is not None and not data.is_dir():
        parser.error(f"DATA {data} is no folder")
    epochs: int | None = arguments.epochs
    if epochs is None and data is not None:
        epochs = REAL_EPOCHS
    folder = ROOT / "demo" / ("toy" if data is None else data.name)
    return Demo(data=data, folder=folder, epochs=epochs)


def main() -> None:
    """Run the demo and print what each stage took, also when one fails."""
    demo = read_arguments()
    demo.folder.mkdir(parents=True, exist_ok=True)
    cache = ROOT / "demo" / "cache"  # nothing is downloaded to a place outside the tree
    environment = {"TORCH_HOME": str(cache / "torch"), "HF_HOME": str(cache / "huggingface")}
    stages = Stages(environment={**os.environ, **environment})
    problem = None
    try:
        run(demo, stages)
    except StageError as error:
        problem = str(error)
    except KeyboardInterrupt:
        problem = "interrupted"
    print(f"\n{stages.table()}", flush=True)
    if problem is not None:
        sys.exit(f"demo: {problem}; the next `make demo` goes on from there")
    print(next_steps(demo))


if __name__ == "__main__":
    main()
