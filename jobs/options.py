"""Command lines: a recipe's fields as options with the recipe's values as defaults, and a converter's."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

from jobs.run import option_names, parse_words, run_job
from seg.errors import RequestError
from seg.files import read_json
from seg.plain_data import require
from seg.recipe import Params, Preprocessing, Recipe, Value, apply_params
from seg.recipes import RECIPES, find_recipe
from seg.requests import DataRequest
from seg.screen import open_console, say

if TYPE_CHECKING:
    from cluster.session import Session

CPU_RECIPE, GPU_RECIPE = "interferogram-small", "interferogram-icnet"


@dataclass(frozen=True, kw_only=True)
class RecipeArgs(DataRequest):
    """A recipe by name, and its fields as options."""

    recipe_name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = None
    """interferogram-icnet where the cluster has a GPU, else interferogram-small; --list names them all."""
    list: bool = False
    """Print the recipes, a line each, and exit."""


Args = TypeVar("Args", bound=RecipeArgs)


def run_recipe_job(
    name: str, kind: type[Args], argv: Sequence[str] | None, job: Callable[[Args, "Session"], int]
) -> int:
    """Parse a recipe's options, find what to run on, run `job` with both; returns the exit code."""
    return run_job(name, lambda: _run(kind, argv, job))


def _run(kind: type[Args], argv: Sequence[str] | None, job: Callable[[Args, "Session"], int]) -> int:
    args = parse(kind, argv)
    if args.list:
        print_recipes()
        return 0
    from cluster.session import compute_session  # here, so that --help loads no torch and no ray

    with compute_session(use_ray=getattr(args, "workers", None) != 0) as session:
        recipe = default_recipe(session.gpus_possible)
        args = parse(kind, argv, recipe)
        return job(_adapt(kind, argv, recipe, args, gpus=session.gpus_possible), session)


def _adapt(kind: type[Args], argv: Sequence[str] | None, recipe: str, args: Args, *, gpus: int) -> Args:
    """Options that, where none were given, are not the recipe's but what this CPU and the weights want."""
    from seg.predict.passes import has_fast_bf16  # here, so that --help loads no torch

    own: Params = {}
    if not gpus and args.recipe.precision == "bf16" and not has_fast_bf16():
        own["precision"] = "float32"
    followed = _follow_weights(args)
    if not own and not followed:
        return args
    adapted = parse(kind, argv, recipe, own | followed)
    if (
        followed and adapted.recipe.preprocessing.normalisation == "per_image"
    ):  # asked for: nothing is followed
        adapted = parse(kind, argv, recipe, own)
    if adapted.recipe.precision != args.recipe.precision:
        say("precision: float32, as this CPU has no instructions for bf16, the recipe's")
    if adapted.recipe.preprocessing != args.recipe.preprocessing:
        kind_of, weights = adapted.recipe.preprocessing.normalisation, args.recipe.weights
        say(f"normalisation: {kind_of}, as weights {weights} want it, not the recipe's per_image")
    return adapted


def _follow_weights(args: RecipeArgs) -> Params:
    """Values that make the normalisation the weights', where the recipe leaves it at its default.

    Torchvision's are told by name alone, and for a model file that is gone stands run.json of the run that
    began with it: one that goes on need not find its weights. None where a run has begun with the default.
    Of `fitted` the model file's statistics are not taken: the training fits its own images'.
    """
    from seg.train.start import find_card  # here, so that --help loads no torch

    weights, settings = args.recipe.weights, args.recipe.preprocessing
    begun = _read_begun(args.out)
    if settings.normalisation != "per_image" or (begun and begun.normalisation == "per_image"):
        return {}
    file = Path(weights)
    if weights in ("imagenet", "coco") or file.suffix.lower() in (".pth", ".pt"):
        wanted = Preprocessing(channels=3, normalisation="imagenet")
    elif card := find_card(weights):
        wanted = card.preprocessing
    else:
        wanted = begun if file.suffix.lower() == ".safetensors" and not file.is_file() else None
    if wanted is None or (wanted.normalisation == "imagenet" and settings.channels != 3):
        return {}
    own: Params = {
        "preprocessing.normalisation": wanted.normalisation,
        "preprocessing.percentiles": wanted.percentiles,
    }
    return own | ({"preprocessing.channels": 3} if wanted.normalisation == "imagenet" else {})


def _read_begun(out: Path | None) -> Preprocessing | None:
    """Preprocessing of the run or search that a folder holds; None: it holds none, or one that is damaged."""
    file = out and out / "run.json"
    if not file or not file.is_file():
        return None
    try:
        return require(Preprocessing, read_json(file)["recipe"]["preprocessing"], str(file))
    except (RequestError, KeyError, TypeError):  # said by who looks whether the folder is this run's
        return None


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
    without_help = [option for option in argv if option not in ("-h", "--help")]
    name = _parse(kind, without_help, find_recipe(default_recipe)).recipe_name
    recipe = find_recipe(default_recipe if name is None else name)
    return _parse(kind, argv, apply_params(recipe, own or {}))


def _parse(kind: type[Args], argv: list[str], recipe: Recipe) -> Args:
    options = tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff
    return parse_words(kind, argv, default=kind(recipe=recipe), config=options)


def spell_command(job: str, kind: type, recipe: str, values: Mapping[str, Value | Path]) -> str:
    """The command line of a recipe's job, for a shell: an option a line, so that 80 columns hold it.

    kind: the job's options; values: by their fields' names, those of a recipe by dotted ones.
    """
    names = option_names(kind)
    lines = [f"python jobs/{job}.py {recipe}"]
    lines += [shlex.join([names[field], *_spell(value)]) for field, value in values.items()]
    return " \\\n    ".join(lines)


def _spell(value: Value | Path) -> list[str]:
    """A value in the words of an option; a flag that is set has none."""
    if value is True:
        return []
    if isinstance(value, tuple):
        return [word for inner in value for word in _spell(inner)]
    return [f"{value:g}" if isinstance(value, float) else str(value)]


def print_recipes() -> None:
    """A table on a terminal; elsewhere a line a recipe, name first, tab-separated (docs/formats.md)."""
    if not sys.stdout.isatty():
        for recipe in RECIPES.values():
            print(*_describe(recipe), sep="\t")  # a table for scripts, without a name of the user's
        return
    from rich.table import Table

    table = Table("recipe", "model", "data", "loss", box=None)
    table.add_column("parameters", justify="right")
    for recipe in RECIPES.values():
        table.add_row(*_describe(recipe))
    open_console().print(table)


def _describe(recipe: Recipe) -> tuple[str, ...]:
    """Name, model, data, loss, and millions of parameters, counted with two classes."""
    import torch  # here, so that --help loads no torch

    from seg.models import MODELS
    from seg.models.build import build

    backbone = recipe.backbone or MODELS[recipe.model].BACKBONES[0]
    with torch.device("meta"):
        model = build(
            recipe.model,
            backbone=backbone,
            num_classes=2,
            channels=recipe.preprocessing.channels,
            options=dict(recipe.model_options),
        )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return recipe.name, f"{recipe.model} on {backbone}", recipe.dataset, recipe.loss, f"{millions:.1f} M"


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
