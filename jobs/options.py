"""Command lines: a recipe's fields as options with the recipe's values as defaults, and a converter's."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg
from tyro.constructors import PrimitiveConstructorSpec

from jobs.lists import RECIPE_LIST, print_list
from jobs.next import spell_command
from jobs.refusals import refuse_training
from jobs.run import option_names, parse_words, run_job
from seg.recipe import Params, Recipe, Value, apply_params
from seg.recipes import find_recipe
from seg.requests import DataRequest

if TYPE_CHECKING:
    from cluster.session import Session

LIST = PrimitiveConstructorSpec(
    nargs=(0, 1),
    metavar="[WHAT]",
    instance_from_str=lambda words: (words or [RECIPE_LIST])[0],
    is_instance=lambda value: isinstance(value, str),
    str_from_instance=lambda value: [value] if value else [],
)
CPU_RECIPE, GPU_RECIPE = "interferogram-small", "interferogram-icnet"


@dataclass(frozen=True, kw_only=True)
class RecipeArgs(DataRequest):
    """A recipe by name, and its fields as options."""

    recipe_name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """interferogram-icnet where the cluster has a GPU, else interferogram-small; --list names them all."""
    list: Annotated[str, LIST] = ""
    """Print the recipes and exit; --list models, encoders, losses or datasets: what can be named instead."""


Args = TypeVar("Args", bound=RecipeArgs)


def run_recipe_job(
    name: str, kind: type[Args], argv: Sequence[str] | None, job: Callable[[Args, "Session"], int]
) -> int:
    """Parse a recipe's options, find what to run on, run `job` with both; returns the exit code."""
    return run_job(name, lambda: _run(kind, argv, job))


def _run(kind: type[Args], argv: Sequence[str] | None, job: Callable[[Args, "Session"], int]) -> int:
    args = parse(kind, argv)
    if args.list:
        print_list(args.list)
        return 0
    refuse_training(args)
    from cluster.session import compute_session  # here, so that --help loads no torch and no ray
    from seg.train.adapting import adapt

    with compute_session(use_ray=getattr(args, "workers", None) != 0) as session:
        recipe = default_recipe(session.gpus_possible)
        args = adapt(lambda own: parse(kind, argv, recipe, own), gpus=session.gpus_possible)
        return job(args, session)


def default_recipe(gpus: int) -> str:
    """The recipe that a command without one runs, where there are, or can be, so many GPUs."""
    return GPU_RECIPE if gpus else CPU_RECIPE


def parse(
    kind: type[Args],
    argv: Sequence[str] | None,
    default_recipe: str = CPU_RECIPE,
    own: Params | None = None,
) -> Args:
    """Options of a job; those not given are the recipe's. RequestError: unknown recipe, impossible value.

    own: values, by the fields' dotted names, that stand for the recipe's.
    All recipes have the same options, so a first pass finds the name and a second fills in its defaults.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    without_help = [option for option in argv if option not in ("-h", "--help", "--help-all")]
    args = _parse(kind, without_help, find_recipe(default_recipe))
    recipe = find_recipe(default_recipe if args.recipe_name is None else args.recipe_name)
    if recipe.name == default_recipe and not own and argv == without_help:
        return args
    return _parse(kind, argv, apply_params(recipe, own or {}))


def _parse(kind: type[Args], argv: list[str], recipe: Recipe) -> Args:
    return parse_words(kind, argv, default=kind(recipe=recipe), config=(tyro.conf.HelptextFromCommentsOff,))


def spell_recipe_command(job: str, kind: type, recipe: str, values: Mapping[str, Value | Path]) -> str:
    """The command line of a recipe's job, for a shell: an option a line, so that 80 columns hold it.

    kind: the job's options; values: by their fields' names, those of a recipe by dotted ones.
    """
    names = option_names(kind)
    lines = [spell_command(job, recipe)]
    lines += [shlex.join([names[field], *_spell(value)]) for field, value in values.items()]
    return " \\\n    ".join(lines)


def _spell(value: Value | Path) -> list[str]:
    """A value in the words of an option; a flag that is set has none."""
    if value is True:
        return []
    if isinstance(value, tuple):
        return [word for inner in value for word in _spell(inner)]
    return [f"{value:g}" if isinstance(value, float) else str(value)]


@dataclass(frozen=True, kw_only=True)
class DatasetArgs:
    """Write a part of a data set in the plain layout, with final class ids; the same command resumes."""

    name: Positional[Annotated[str, arg(metavar="NAME")]]
    """How SRC is read: plain, camvid, camvid-rgb, pets-binary, pets-trimap, pets-breeds, pets-breeds-only or
    drinks."""
    source: Positional[Annotated[Path, arg(metavar="SRC")]]
    """Folder of the data set."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write, outside SRC: images/, masks/, classes.txt."""
    split: Literal["train", "validation", "test"]
    """Which part."""
    seed: int = 0
    """Of the split, where the data set gives none; as in training."""
    share: float = 0.2
    """Share of the sequences that validate; as the recipe's validation_share."""
    test_share: float = 0.0
    """Share of all sequences drawn as test part, 0: the data set's own; as the recipe's test_share."""
    sequence: str = ""
    """Regular expression on an image's path whose first group names its sequence; as the recipe's."""
    label_map: tuple[tuple[int, int], ...] | None = None
    """Pairs: id in the label, class id (255: ignore); default: the data set's own, camvid's 11 255."""
    labels: Annotated[Path | None, arg(metavar="DIR")] = None
    """Of plain data: folder of the labels, as in training; default: masks/ or boxes/ in SRC."""
    label_suffix: Annotated[str, arg(metavar="TEXT")] = ""
    """What a label's name has after its image's: _mask, where a.tif has a_mask.png."""
    foreground: Annotated[int | None, arg(metavar="ID")] = None
    """The id in the masks that is class 1, all others being 0; in place of --label-map."""
    label_colours: Annotated[Path | None, arg(metavar="FILE")] = None
    """What the colours of RGB masks mean: a line a class, R G B NAME, in id order; ignore: not counted."""
    classes: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = ()
    """Names of the classes after background, where there is no classes.txt; default: object."""
    follow_links: bool = False
    """Of plain data: enter linked folders, and read files behind links that leave the folder."""


@dataclass(frozen=True, kw_only=True)
class LabelsArgs:
    """Write the labels of an old roi.pkl or segmentation_*.npy as files: boxes as JSON, masks as PNG."""

    file: Positional[Annotated[Path, arg(metavar="FILE")]]
    """Read without running anything in it; what is more than plain values is refused by name."""
    out: Positional[Annotated[Path, arg(metavar="OUT")]]
    """Folder to write: a label folder for the images."""
    images: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of the images: checks the file's names, or stands in for them by natural order."""
