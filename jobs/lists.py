"""What --list prints: tables that cut no name on a terminal; elsewhere a line an entry, name first."""

import sys
from collections.abc import Iterable

from seg.catalogue import DATASETS, LOSSES, NETWORKS, backbone_of, count_parameters, list_encoders
from seg.errors import RequestError, describe_unknown
from seg.recipe import Recipe
from seg.recipes import RECIPES
from seg.screen import open_console, say

RECIPE_LIST = "recipes"


def print_list(what: str) -> None:
    """Print recipes, models, encoders, losses or datasets. RequestError: another word.

    Off a terminal a line has the fields of docs/reference/commands.md, tab-separated.
    """
    if what == RECIPE_LIST:
        print_recipes()
        return
    lists = {"models": _models, "encoders": _encoders, "losses": _losses, "datasets": _datasets}
    if what not in lists:
        raise RequestError(describe_unknown("list", what, (RECIPE_LIST, *lists)))
    headings, rows = lists[what]()
    if sys.stdout.isatty():
        print_table(headings, rows)
    else:
        _print_lines(rows)


def print_recipes() -> None:
    """The recipes: on a terminal a table a data set."""
    if not sys.stdout.isatty():
        _print_lines(_describe(recipe) for recipe in RECIPES.values())
        return
    for dataset in dict.fromkeys(recipe.dataset for recipe in RECIPES.values()):
        say(f"dataset {dataset}", out=True)
        described = (_describe(recipe) for recipe in RECIPES.values() if recipe.dataset == dataset)
        print_table((), [(f"  {name}", model, size, loss) for name, model, _, loss, size in described])
    say(f"also: --list {', --list '.join(('models', 'encoders', 'losses', 'datasets'))}", out=True)


def print_table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """A table whose first column is never broken; the others are, between words, where the room ends."""
    from rich.table import Table

    rows = list(rows)
    table = Table(box=None, pad_edge=False, show_header=bool(headings), header_style="bold")
    for place in range(len(rows[0])):
        table.add_column(headings[place] if headings else "", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row)
    open_console().print(table)


def _print_lines(rows: Iterable[tuple[str, ...]]) -> None:
    for row in rows:
        print(*row, sep="\t")  # for scripts, without a name of the user's


def _describe(recipe: Recipe) -> tuple[str, ...]:
    """Name, model, data, loss, and millions of parameters, counted with two classes."""
    model = f"{recipe.model} on {backbone_of(recipe)}"
    return recipe.name, model, recipe.dataset, recipe.loss, f"{count_parameters(recipe) / 1e6:.1f} M"


def _models() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [
        (name, ", ".join(f"{one} {gray / 1e6:.1f}" for one, (gray, _) in it.parameters.items()), it.what)
        for name, it in NETWORKS.items()
    ]
    other = ("smp/NAME/ENCODER", "its own", "of segmentation-models-pytorch: smp/unetplusplus/resnet34")
    return ("--model", "--backbone, and its parameters in millions", ""), [*rows, other]


def _encoders() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("--backbone", "of --model"), [(name, ", ".join(of)) for name, of in list_encoders().items()]


def _losses() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("--loss, or a sum: focal+dice", ""), list(LOSSES.values())


def _datasets() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("--dataset", "folder"), list(DATASETS.items())
