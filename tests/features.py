"""Writes docs/reference/features.md: what four systems had, what gives it here, and their recipes.

python -m tests.features makes it of features.toml; test_features.py holds it against jobs and recipes.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from jobs.run import option_names
from seg.models import MODELS
from seg.recipe import Recipe, Value, as_tuples
from seg.recipes import RECIPES
from seg.train.losses import LOSSES, build_loss

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "features.md"
DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
SYSTEMS: dict[str, list[list[str]]] = DATA["systems"]
"""Rows by system: theirs, command and test; or theirs and what there is in place of what is missing."""
OPEN, METRIC = "not said", "one matrix of pixel counts"
ORDER = [*option_names(Recipe), "metric"]
HEAD = """\
# What the four reference systems had

Written by `python -m tests.features`; a test holds it against the code, parses each command and looks for
each test. A command is that of jobs/: `train` is `python jobs/train.py`. Capitals are to be filled in.
"""
RECIPES_HEAD = """\
## Recipes, field by field

*Not said* leaves a value to us; what their optimiser was not given is torch's default. The metric, which is
no field, is in every recipe IoU, Dice and pixel accuracy as ratios of one matrix of pixel counts.
"""


class Said(NamedTuple):
    """A description's value of a recipe's field, and in what, or why, ours is another."""

    value: Value
    why: str = ""


def said_of(name: str) -> dict[str, Said]:
    """What a description says of a recipe, by field."""
    own = dict(DATA["recipes"][name])
    like = own.pop("like", None)
    return (said_of(like) if like else {}) | {field: Said(*as_tuples(said)) for field, said in own.items()}


COMPARED = {name: said_of(name) for name in DATA["recipes"]}


def read_field(recipe: Recipe, name: str) -> Value:
    """What a recipe trains with: where its field leaves that to the architecture or the loss, theirs."""
    if name == "metric":
        return METRIC
    value = reduce(getattr, name.split("."), recipe)
    if name == "backbone":
        return value or MODELS[recipe.model].BACKBONES[0]
    if name == "output_weights":
        return value or MODELS[recipe.model].OUTPUT_WEIGHTS
    return spell_loss(value) if name == "loss" else value


def spell_loss(text: str) -> str:
    """A loss with all of its parameters."""
    names = {kind: name for name, kind in LOSSES.items()}
    return "+".join(
        f"{names[type(part)]}({', '.join(f'{key}={value:g}' for key, value in asdict(part).items())})"
        for part in build_loss(text).parts
    )


def make_page() -> str:
    """The whole of docs/reference/features.md."""
    return "\n".join([HEAD, *_features(), RECIPES_HEAD, *_recipes()]).rstrip() + "\n"


def _features() -> Iterator[str]:
    for title, rows in SYSTEMS.items():
        yield f"## {title}\n\n| theirs | here | held by |\n| --- | --- | --- |"
        for theirs, here, *test in rows:
            yield f"| {theirs} | `{here}` | {_link(*test)} |" if test else f"| {theirs} | missing: {here} | |"
        yield ""


def _link(test: str) -> str:
    file, name = test.split("::")
    return f"[{name}](../../tests/{file})"


def _recipes() -> Iterator[str]:
    for name, said in COMPARED.items():
        yield f"### {name}\n\n| field | theirs | ours | where it differs |\n| --- | --- | --- | --- |"
        for field in (one for one in ORDER if one in said):
            value, why = said[field]
            theirs = spell_loss(str(value)) if field == "loss" else value
            yield f"| `{field}` | {theirs} | {read_field(RECIPES[name], field)} | {why} |"
        yield ""
    ours = (f"`{name}`" for name in RECIPES if name not in COMPARED)
    yield f"Ours alone, described by none of the four: {', '.join(ours)}."


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
