"""Which recipes `mmsr-train compare` trains: those of files, and variants of the first of them."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmsr.bundle.errors import MmsrError, printable
from mmsr.training.comparison import CONTENT_KNN, POPULARITY
from mmsr.training.config import Recipe, load_recipe, parse_recipe, recipe_to_dict

NAME = re.compile(r"[\w.+=-]+")  # it names folders too
# A semicolon parts assignments unless it stands in a TOML string.
ASSIGNMENT = re.compile(r"""(?:[^;"']|"(?:[^"\\]|\\.)*"|'[^']*')+""")
FORM = 'NAME: model.fusion="gate"; loss.text_weight=0.0'


class CompareError(MmsrError):
    """A comparison cannot be made as asked."""


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One recipe with one seed, and the folder of its run."""

    name: str
    recipe: Recipe  # with its seed
    folder: str  # below the folder of the comparison

    @property
    def seed(self) -> int:
        """Return the seed of the training."""
        return self.recipe.fit.seed


def plan_recipes(
    configs: Sequence[Path], variants: Sequence[str], epochs: int | None
) -> dict[str, Recipe]:
    """Return the recipes by name, in the order in which they were given.

    A file's recipe is named as the file; a variant `NAME: TABLE.KEY=VALUE; ...` is the first
    file's with some values changed, each written as in TOML. `epochs` overrides every recipe's.
    """
    named = [(path.stem, load_recipe(path)) for path in configs]
    named += [parse_variant(text, named[0][1]) for text in variants]
    recipes: dict[str, Recipe] = {}
    for name, recipe in named:
        _require_free(name, recipes)
        fit = recipe.fit if epochs is None else replace(recipe.fit, epochs=epochs)
        recipes[name] = replace(recipe, fit=fit)
    _require_same_split(recipes)
    return recipes


def plan_runs(recipes: Mapping[str, Recipe], seeds: int) -> list[PlannedRun]:
    """Return every recipe with seeds 0 to seeds - 1.

    All recipes come with one seed before any comes with the next, so that what was run when time
    is up compares all of them.
    """
    return [
        PlannedRun(
            name=name,
            recipe=replace(recipe, fit=replace(recipe.fit, seed=seed)),
            folder=f"{name}-seed{seed}",
        )
        for seed in range(seeds)
        for name, recipe in recipes.items()
    ]


def parse_variant(text: str, base: Recipe) -> tuple[str, Recipe]:
    """Return the name and the recipe of a variant of `base`."""
    name, colon, assignments = text.partition(":")
    name = name.strip()
    if not colon or not name:
        raise CompareError(f"--variant {text!r}; expected the form '{FORM}'")
    where = f"--variant {printable(name)}"
    lines = [line.strip() for line in ASSIGNMENT.findall(assignments)]
    try:
        changes = tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError) as error:
        raise CompareError(
            f"{where}: {assignments.strip()!r} is not readable as TOML ({error}); "
            f"expected the form '{FORM}'"
        ) from None
    if not changes:
        raise CompareError(f"{where} changes nothing; expected the form '{FORM}'")
    tables: dict[str, Any] = recipe_to_dict(base)
    for table, keys in changes.items():
        known = tables.get(table)
        tables[table] = known | keys if isinstance(known, dict) and isinstance(keys, dict) else keys
    return name, parse_recipe(tables, where)


def _require_free(name: str, recipes: Mapping[str, Recipe]) -> None:
    if not NAME.fullmatch(name):
        raise CompareError(
            f"name {name!r} names folders too; only letters, digits and . _ + = - may stand in it"
        )
    if name in (POPULARITY, CONTENT_KNN):
        raise CompareError(f"name {name!r} is taken: that line is in every comparison")
    if name in recipes:
        raise CompareError(f"two recipes are named {name!r}; rename a file or a --variant")


def _require_same_split(recipes: Mapping[str, Recipe]) -> None:
    first, *others = recipes.items()
    for name, recipe in others:
        if recipe.split != first[1].split:
            raise CompareError(
                f"{name} and {first[0]} have different [split] tables: their users and targets "
                "differ, so nothing can be compared; make the tables equal"
            )
