"""Command lines whose options are a recipe's fields, with the named recipe's values as defaults."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import tyro

from seg.recipes import RECIPES, Recipe, find_recipe

CPU_RECIPE, GPU_RECIPE = "interferogram-small", "interferogram-icnet"


@dataclass(frozen=True, kw_only=True)
class RecipeArgs:
    """A recipe by name, and its fields as options."""

    recipe_name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """interferogram-icnet where the cluster has a GPU, else interferogram-small; --list names them all."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(default_factory=lambda: RECIPES[CPU_RECIPE])
    list: bool = False
    """Print the recipes, a line each, and exit."""


Args = TypeVar("Args", bound=RecipeArgs)


def parse(kind: type[Args], argv: Sequence[str] | None, default_recipe: str = CPU_RECIPE) -> Args:
    """Options of a job; those not given are the recipe's. RequestError: unknown recipe, impossible value.

    All recipes have the same options, so a first pass finds the name and a second fills in its defaults.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    without_help = [option for option in argv if option not in ("-h", "--help")]
    name = _parse(kind, without_help, default_recipe).recipe_name or default_recipe
    return _parse(kind, argv, name)


def _parse(kind: type[Args], argv: list[str], recipe: str) -> Args:
    options = tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff
    return tyro.cli(kind, args=argv, default=kind(recipe=find_recipe(recipe)), config=options)


def default_recipe(gpus: int) -> str:
    """The recipe that a command without one trains, on a cluster that has or can start so many GPUs."""
    return GPU_RECIPE if gpus else CPU_RECIPE


def print_recipes() -> None:
    """One line a recipe: name first, tab-separated, never wrapped (DESIGN 3.7)."""
    for recipe in RECIPES.values():
        backbone = f" on {recipe.backbone}" if recipe.backbone else ""
        print(recipe.name, f"{recipe.model}{backbone}", recipe.dataset, recipe.loss, sep="\t")
