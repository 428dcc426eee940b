"""Comparing recipes: what is planned, run, gone on with, tested once and summed up."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_features import write_features
from support.small_shop import write_shop
from typer.testing import CliRunner

from mmsr.bundle.errors import MmsrError
from mmsr.training.baselines.content_knn import content_knn_scorer
from mmsr.training.cli import app
from mmsr.training.compare import Asked, choose_against, summarise_comparison
from mmsr.training.compare_plan import PlannedRun, parse_variant, plan_recipes, plan_runs
from mmsr.training.compare_runs import Callbacks, Runs, load_ranks
from mmsr.training.comparison import Comparison, load_comparison, save_comparison
from mmsr.training.comparison_text import markdown, rows
from mmsr.training.config import ModelConfig, Recipe, load_recipe
from mmsr.training.content import load_content
from mmsr.training.dataset import open_dataset
from mmsr.training.evaluate import model_ranks, popularity_ranks, rank_held_out
from mmsr.training.features.store import open_features
from mmsr.training.fit import Hooks, Trainer
from mmsr.training.metrics import per_user_ndcg, summarise
from mmsr.training.run import open_run
from mmsr.training.split import leave_one_out
from mmsr.training.statistics import paired_interval

CONFIGS = Path(__file__).parents[3] / "training" / "configs"
IDS = """
[model]
sources = ["id"]
position_in_inputs = true
width = 8
heads = 2
blocks = 1
feedforward_width = 8
max_length = 8
id_dropout = 0.0
[fit]
epochs = 2
batch_size = 16
learning_rate = 0.01
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_features(write_shop(tmp_path_factory.mktemp("shop") / "data"), "text")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ids.toml"
    path.write_text(IDS)
    return path


def base() -> Recipe:
    return load_recipe(CONFIGS / "toy.toml")


# --- what is planned


def test_recipes_are_named_by_their_files_and_variants_change_the_first(config: Path) -> None:
    recipes = plan_recipes(
        [config, CONFIGS / "toy.toml"],
        ["wide: model.width=32; fit.batch_size=8", "all: model.sources=['id', 'text']"],
        epochs=None,
    )
    assert list(recipes) == ["ids", "toy", "wide", "all"]
    first = recipes["ids"]
    assert recipes["toy"] == base()
    assert recipes["wide"] == replace(
        first, model=replace(first.model, width=32), fit=replace(first.fit, batch_size=8)
    )
    assert recipes["all"].model.sources == ("id", "text")


def test_epochs_override_every_recipe(config: Path) -> None:
    recipes = plan_recipes([config, CONFIGS / "toy.toml"], ["x: fit.epochs=9"], epochs=5)
    assert [r.fit.epochs for r in recipes.values()] == [5, 5, 5]


def test_all_recipes_come_with_a_seed_before_any_comes_with_the_next(config: Path) -> None:
    plan = plan_runs(plan_recipes([config, CONFIGS / "toy.toml"], [], None), seeds=2)
    assert [(p.name, p.seed, p.folder) for p in plan] == [
        ("ids", 0, "ids-seed0"),
        ("toy", 0, "toy-seed0"),
        ("ids", 1, "ids-seed1"),
        ("toy", 1, "toy-seed1"),
    ]


def test_a_semicolon_in_a_string_parts_nothing() -> None:
    name, recipe = parse_variant('n: features.text_encoder="a;b"; fit.seed=3', base())
    assert name == "n"
    assert recipe.features.text_encoder == "a;b"
    assert recipe.fit.seed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.width=32", "expected the form 'NAME: model.fusion"),
        ("x:", "--variant x changes nothing"),
        ("x: model.width=", "--variant x: 'model.width=' is not readable as TOML"),
        ("x: model.width=1; model.width=2", "not readable as TOML"),
        ("x: model.widht=32", r"--variant x: unknown key 'widht' in \[model\]; known keys: arch"),
        ("x: modle.width=32", "--variant x: unknown table or key 'modle'"),
        ("x: model=3", "--variant x: unknown table or key 'model'"),
        ("x: model.fusion='max'", "--variant x: .*fusion = 'max'; expected one of"),
    ],
)
def test_a_wrong_variant_is_refused(text: str, message: str) -> None:
    with pytest.raises(MmsrError, match=message):
        parse_variant(text, base())


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        (["ids: fit.seed=3"], "two recipes are named 'ids'"),
        (["popularity: fit.seed=3"], "name 'popularity' is taken"),
        (["a/b: fit.seed=3"], "name 'a/b' names folders too"),
        (["cold: split.cold_share=0.1"], r"cold and ids have different \[split\] tables"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    config: Path, variants: list[str], message: str
) -> None:
    with pytest.raises(MmsrError, match=message):
        plan_recipes([config], variants, None)


@pytest.mark.parametrize("path", sorted((CONFIGS / "baselines").glob("*.toml")), ids=str)
def test_recipes_of_baselines_load(path: Path) -> None:
    recipe = load_recipe(path)
    assert (recipe.model.architecture == "dif-sr") == ("dif-sr" in path.stem)
    assert (recipe.loss.softmax == "sampled") == ("sampled" in path.stem)
    if "sasrec" in path.stem:
        assert recipe.model.sources == ("id",)
        assert recipe.model.position_in_inputs


# --- what is run


@dataclass(kw_only=True)
class Witness:
    """Trains without a terminal and remembers what was done."""

    trained: list[str] = field(default_factory=list)  # a name for every epoch
    tested: list[str] = field(default_factory=list)
    before_epoch: Callable[[str, int], None] = lambda folder, done: None

    def callbacks(self) -> Callbacks:
        def train(trainer: Trainer, folder: Path, after_epoch: Callable[[], None]) -> None:
            torch.set_num_threads(1)

            def step(done: int, steps: int, loss: float) -> None:
                if done == 1:
                    self.before_epoch(folder.name, trainer.progress.epoch)

            def epoch(line: dict[str, float]) -> None:
                self.trained.append(folder.name)
                after_epoch()

            trainer.run(folder, Hooks(step=step, epoch=epoch))

        return Callbacks(
            begin=lambda planned, number, total: None,
            train=train,
            testing=lambda planned: self.tested.append(planned.folder),
            failed=lambda planned, error: None,
        )


def make_plan(config: Path, *variants: str, seeds: int = 2) -> tuple[Asked, list[PlannedRun]]:
    recipes = plan_recipes([config], ["wide: model.width=16", *variants], None)
    asked = Asked(command="mmsr-train compare", recipes=recipes, seeds=seeds, against=None)
    return asked, plan_runs(recipes, seeds)


def make_runs(shop: Path, out: Path, witness: Witness, max_hours: float | None = None) -> Runs:
    return Runs(data=shop, out=out, max_hours=max_hours, callbacks=witness.callbacks())


def reasons(runs: Runs) -> dict[str, str]:
    return {f"{n.name}-seed{n.seed}": n.reason for n in runs.not_run}


def test_an_interrupted_comparison_goes_on_and_trains_nothing_twice(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    def interrupt(folder: str, done: int) -> None:
        if folder == "wide-seed0" and done == 1:
            raise KeyboardInterrupt

    asked, plan = make_plan(config)
    witness = Witness(before_epoch=interrupt)
    first = make_runs(shop, tmp_path / "out", witness)
    first.run(plan)
    assert witness.trained == ["ids-seed0", "ids-seed0", "wide-seed0"]
    assert witness.tested == ["ids-seed0"]
    assert [run.planned.folder for run in first.finished] == ["ids-seed0"]
    assert reasons(first) == {
        "wide-seed0": "interrupted after epoch 1 of 2; the same command goes on with it",
        **dict.fromkeys(
            ("ids-seed1", "wide-seed1"),
            "not reached: interrupted before; the same command goes on with it",
        ),
    }
    text = markdown(summarise_comparison(asked, first, open_dataset(shop)))
    assert "over the seeds that were run; 2 were asked for" in text
    again = Witness()
    second = make_runs(shop, tmp_path / "out", again)
    second.run(plan)
    assert not second.not_run
    assert again.trained == ["wide-seed0", *["ids-seed1"] * 2, *["wide-seed1"] * 2]
    assert again.tested == ["wide-seed0", "ids-seed1", "wide-seed1"]
    third = make_runs(shop, tmp_path / "out", last := Witness())
    third.run(plan)
    assert (last.trained, last.tested) == ([], [])
    assert [run.progress.epoch for run in third.finished] == [2] * 4
    for one, other in zip(second.finished, third.finished, strict=True):
        assert one.planned == other.planned
        assert np.array_equal(one.tested.ranks["masked"], other.tested.ranks["masked"])


def test_the_hours_end_a_comparison_after_a_whole_epoch(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    _, plan = make_plan(config, seeds=1)
    witness = Witness()
    runs = make_runs(shop, tmp_path / "out", witness, max_hours=2)
    runs.clock_s = lambda: 3000.0 * len(witness.trained)  # every epoch takes 50 minutes
    runs.run(plan)
    assert witness.trained == ["ids-seed0", "ids-seed0", "wide-seed0"]
    end = "; the same command goes on with it"
    assert reasons(runs) == {"wide-seed0": f"--max-hours 2 reached after epoch 1 of 2{end}"}
    runs = make_runs(shop, tmp_path / "out", witness, max_hours=0)
    runs.run(make_plan(config, seeds=2)[1])
    assert [run.planned.folder for run in runs.finished] == ["ids-seed0"]  # nothing left to train
    assert set(reasons(runs)) == {"wide-seed0", "ids-seed1", "wide-seed1"}
    assert (
        reasons(runs)["ids-seed1"] == f"--max-hours 0 reached before its first epoch was done{end}"
    )
    assert len(witness.trained) == 3


def test_a_failed_run_is_listed_and_the_others_go_on(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    def break_down(folder: str, done: int) -> None:
        if folder == "wide-seed0":
            raise RuntimeError("the card fell out")

    asked, plan = make_plan(config, "wild: fit.learning_rate=1e30", seeds=1)
    runs = make_runs(shop, tmp_path / "out", Witness(before_epoch=break_down))
    runs.run(plan)
    assert [run.planned.name for run in runs.finished] == ["ids"]
    assert reasons(runs)["wide-seed0"] == "failed: RuntimeError('the card fell out')"
    assert "failed: the " in reasons(runs)["wild-seed0"]
    assert "lower [fit] learning_rate" in reasons(runs)["wild-seed0"]
    text = markdown(summarise_comparison(asked, runs, open_dataset(shop)))
    assert "* wide, seed 0: failed: RuntimeError('the card fell out')" in text
    assert "One seed: no spread can be given." in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("heads = 1", "was begun with another recipe (differs in [model] heads); "),
        ("epochs = 1", "ids-seed0 has 2 epochs, more than the 1 asked for; name a new --out"),
    ],
)
def test_a_folder_of_another_recipe_or_of_more_epochs_is_not_taken_for_this_one(
    shop: Path, config: Path, tmp_path: Path, change: str, reason: str
) -> None:
    make_runs(shop, tmp_path / "out", Witness()).run(make_plan(config, seeds=1)[1][:1])
    key = change.partition(" ")[0]
    lines = [change if line.startswith(f"{key} =") else line for line in IDS.splitlines()]
    config.write_text("\n".join(lines))
    runs = make_runs(shop, tmp_path / "out", witness := Witness())
    runs.run(make_plan(config, seeds=1)[1][:1])
    assert reason in reasons(runs)["ids-seed0"]
    assert not witness.trained


def test_a_lengthened_run_is_tested_again_and_that_is_said(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    make_runs(shop, out, Witness()).run(make_plan(config, seeds=1)[1])
    config.write_text(IDS.replace("epochs = 2", "epochs = 6"))
    asked, plan = make_plan(config, seeds=1)
    runs = make_runs(shop, out, witness := Witness())
    runs.run(plan)
    assert witness.trained.count("ids-seed0") == 4
    tested = load_ranks(out / "ids-seed0")
    assert tested is not None
    assert tested.evaluations == 1 + witness.tested.count("ids-seed0") == 2
    text = markdown(summarise_comparison(asked, runs, open_dataset(shop)))
    assert "tested again: ids-seed0" in text


def test_damaged_ranks_are_listed_with_what_to_do(shop: Path, config: Path, tmp_path: Path) -> None:
    _, plan = make_plan(config, seeds=1)
    make_runs(shop, tmp_path / "out", Witness()).run(plan[:1])
    (tmp_path / "out" / "ids-seed0" / "ranks.npz").write_bytes(b"PK")
    runs = make_runs(shop, tmp_path / "out", Witness())
    runs.run(plan[:1])
    assert "ranks.npz is damaged" in reasons(runs)["ids-seed0"]
    assert "delete it" in reasons(runs)["ids-seed0"]


# --- what is said of it


@pytest.fixture(scope="module")
def compared(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    folder = tmp_path_factory.mktemp("compared")
    config = folder / "ids.toml"
    config.write_text(IDS)
    asked, plan = make_plan(config)
    runs = make_runs(shop, folder / "out", Witness())
    runs.run(plan)
    return folder / "out", summarise_comparison(asked, runs, open_dataset(shop))


def test_metrics_are_those_of_the_best_epoch_on_the_test(
    shop: Path, compared: tuple[Path, Comparison]
) -> None:
    out, comparison = compared
    result = comparison.result("wide")
    assert result is not None
    assert [run.seed for run in result.runs] == [0, 1]
    for run in result.runs:
        trained = open_run(out / run.folder)
        assert trained.checkpoint.name == f"epoch-{run.best_epoch:04d}"
        ranks = model_ranks(trained.model, trained.content, trained.split, "test")
        for mask in ("masked", "unmasked"):
            for name, value in summarise(ranks[mask]).items():
                assert run.metrics[f"{mask}.{name}"] == value
        assert [line["epoch"] for line in run.log] == [1, 2]
        assert run.test_evaluations == 1
    values = [run.metrics["masked.ndcg@10"] for run in result.runs]
    assert result.mean["masked.ndcg@10"] == pytest.approx(np.mean(values))
    assert result.deviation is not None
    assert result.deviation["masked.ndcg@10"] == pytest.approx(np.std(values, ddof=1))


def test_differences_are_paired_by_user_with_seeds_averaged_first(
    compared: tuple[Path, Comparison],
) -> None:
    out, comparison = compared
    per_user = {}
    for name in ("ids", "wide"):
        tested = [load_ranks(out / f"{name}-seed{seed}") for seed in (0, 1)]
        per_user[name] = np.mean(
            [per_user_ndcg(t.ranks["unmasked"], 10) for t in tested if t is not None], axis=0
        )
    result = comparison.result("wide")
    assert result is not None
    assert result.difference is not None
    found = result.difference["unmasked.ndcg@10"]
    assert found.mean == pytest.approx((per_user["wide"] - per_user["ids"]).mean())
    assert (found.low, found.high) == paired_interval(per_user["wide"], per_user["ids"])
    assert found.low <= found.mean <= found.high
    assert comparison.against == "ids"
    assert comparison.results[0].difference is None


def test_popularity_and_content_neighbours_are_always_there(
    shop: Path, compared: tuple[Path, Comparison]
) -> None:
    dataset = open_dataset(shop)
    split = leave_one_out(dataset)
    content = load_content(dataset, open_features(dataset), ModelConfig(sources=("id", "text")))
    wanted = {
        "popularity": popularity_ranks(split, "test", dataset.info.items),
        "content-knn": rank_held_out(
            split, "test", content_knn_scorer(content), dataset.info.items
        ),
    }
    _, comparison = compared
    assert [r.name for r in comparison.results] == ["ids", "wide", *wanted]
    for name, ranks in wanted.items():
        result = comparison.result(name)
        assert result is not None
        assert result.kind == name
        assert result.mean["masked.ndcg@10"] == summarise(ranks["masked"])["ndcg@10"]
        assert result.difference is not None


def test_without_features_the_neighbours_are_listed_as_not_run(
    tmp_path: Path, config: Path
) -> None:
    shop = write_features(write_shop(tmp_path / "data"))
    asked, _ = make_plan(config)
    nothing = make_runs(shop, tmp_path / "out", Witness())
    comparison = summarise_comparison(asked, nothing, open_dataset(shop))
    assert [r.name for r in comparison.results] == ["popularity"]
    assert comparison.results[0].difference is None  # what it would be compared with was not run
    assert [(n.name, n.seed) for n in comparison.not_run] == [("content-knn", None)]


def test_an_unknown_name_to_compare_with_is_refused(config: Path) -> None:
    asked, _ = make_plan(config)
    with pytest.raises(MmsrError, match="expected one of: ids, wide, popularity, content-knn"):
        choose_against(replace(asked, against="sasrec"))
    assert choose_against(replace(asked, against="popularity")) == "popularity"


def test_a_comparison_is_read_as_it_was_written(
    compared: tuple[Path, Comparison], tmp_path: Path
) -> None:
    _, comparison = compared
    path = tmp_path / "c.json"
    save_comparison(path, comparison)
    again = load_comparison(path)
    assert json.loads(json.dumps(again.results[0].recipe)) == json.loads(path.read_text())[
        "results"
    ][0].get("recipe")
    assert replace(again, results=()) == replace(comparison, results=())
    for one, other in zip(again.results, comparison.results, strict=True):
        assert replace(one, recipe=None) == replace(other, recipe=None)


@pytest.mark.parametrize("text", ["[]", '{"format": 7}', '{"format": 1}', '{"format": 1, "x'])
def test_what_is_no_comparison_is_one_clear_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(MmsrError, match=r"c\.json is (no comparison|damaged|unreadable)"):
        load_comparison(path)


def test_the_report_says_how_it_was_made(compared: tuple[Path, Comparison]) -> None:
    _, comparison = compared
    text = markdown(comparison)
    for said in (
        "# Comparison on small shop",
        "```sh\nmmsr-train compare\n```",
        f"Commit: {comparison.commit}",
        comparison.machine.processor,
        "hash `small-shop-0`",
        "Validation NDCG@10 selected the epoch; the test was ranked once a run",
        "over 2 seeds",
        "## Test, history not masked",
    ):
        assert said in text
    assert "## Not run" not in text
    row = next(r for r in rows(comparison) if r[0] == "wide")
    assert f"| {' | '.join(row)} |" in text
    mean = comparison.results[1].mean["masked.recall@5"]
    assert row[1].startswith(f"{mean:.4f} ±")


def test_the_command_writes_the_table_the_json_and_the_report(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    line = ["compare", str(config), "--data", str(shop), "--out", str(tmp_path / "out")]
    line += ["--seeds", "1", "--variant", "wide: model.width=16", "--against", "wide"]
    line += ["--epochs", "1", "--json", str(tmp_path / "c.json")]
    line += ["--markdown", str(tmp_path / "reports" / "c.md")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    comparison = load_comparison(tmp_path / "c.json")
    assert comparison == load_comparison(tmp_path / "out" / "comparison.json")
    assert comparison.against == "wide"
    assert not comparison.not_run
    for result in comparison.results:
        assert f"{result.name} " in done.stdout
        assert f"{result.mean['masked.ndcg@10']:.4f}" in done.stdout
    assert "content-knn" in (tmp_path / "reports" / "c.md").read_text()


def test_the_command_exits_with_1_when_something_was_not_run(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    line = ["compare", str(config), "--data", str(shop), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*line, "--seeds", "1", "--max-hours", "0"])
    assert done.exit_code == 1
    assert "Not run:" in done.stdout
    assert "ids, seed 0: --max-hours 0 reached before its first epoch was done" in done.stdout
