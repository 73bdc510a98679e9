"""Fringe in Python: train, score, predict and read scores; `import fringe` itself loads nothing slow.

    import fringe

    found = fringe.load("runs/cells").predict("frame.tif")
    found.mask, found.probability, found.objects  # a notebook shows `found` as a picture

docs/how-to/python.md has examples. What its caller can mend is a `RequestError`, one sentence that says how;
an image that cannot be used is an `ImageError`. What is told beside results goes to the standard
`logging`, how far a job is to standard error.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from seg.errors import ImageError, RequestError, describe_unknown
from seg.process import set_up_process
from seg.words import fringe_version

if TYPE_CHECKING:  # loaded where they are used, as torch takes seconds
    from cluster.session import Session
    from cluster.train import TrainSummary
    from seg.recipe import Recipe
    from seg.report.tables import ScoreTables
    from seg.requests import ScoreRequest, TrainRequest
    from seg.score.image_model import ImageModel
    from seg.score.summary import ScoreSummary

__all__ = ["ImageError", "RequestError", "load", "read_scores", "score", "train"]
__version__ = fringe_version()

set_up_process()

Request = TypeVar("Request")
Job = TypeVar("Job", "TrainRequest", "ScoreRequest")
Models = str | Path | Sequence[str | Path]
"""A model file, or the folder of its run or search; or several of them."""


def load(models: Models, **options: Any) -> "ImageModel":
    """The network of a model file, to predict images with.

    models: best.safetensors of a run or a search, or that folder; several are an ensemble, of which the mean
    probability decides. options: how, by the names in `seg.requests.PredictRequest`: device ("auto", "cpu",
    "cuda"), halo_px, blend, tta, batch, precision, threads, min_object_px, background.
    RequestError: a file is not there, damaged or none of ours; an option is unknown, or cannot be.

        model = fringe.load("runs/cells", tta="flips")
        model.classes                       # ("background", "cell")
        found = model.predict("frame.tif")  # or pixels: uint8 or uint16, [H, W] or [H, W, 3]; or a list
        found.mask                          # uint8 [H, W]: class ids
        found.probability                   # float32 [H, W]: of the class that won
        found.objects.to_pandas()           # a row an object: class, x, y, width, height, area, ...
        found.overlay().save("frame.png")   # the picture that a notebook shows
    """
    from seg.requests import PredictRequest
    from seg.score.image_model import ImageModel

    if odd := sorted(options.keys() & {"images", "archive", "out", "overlays"}):
        raise RequestError(f"`{odd[0]}` is not for `load`: images go to `predict`, and nothing is written")
    return ImageModel(_request(PredictRequest, {"images": (), "models": _model_files(models), **options}))


def train(recipe: "str | Recipe" = "interferogram-small", **options: Any) -> "TrainSummary":
    """Train a recipe on a data set, as `fringe train` does; the same call resumes it.

    recipe: a name in `seg.recipes.RECIPES`, or a recipe. options: fields of `seg.requests.TrainRequest`
    (data, out, limit, seed, workers, ...) and of the recipe (epochs, batch, optimizer={"lr": 1e-3}, ...).
    By default it trains in this process where no cluster answers and no GPU is here, else as the job does.
    Returns the job's summary: `.folder`, and `.values`, which is what summary.json holds.
    RequestError: recipe, data and folder do not fit each other; nothing is written then.

        run = fringe.train("interferogram-small", data="cells", out="runs/cells", epochs=20)
        run.values["miou"], run.values["best_epoch"]
        fringe.load(run.folder)
    """
    from cluster.train import train as run_training
    from seg.recipe import Recipe, apply_params
    from seg.recipes import find_recipe
    from seg.requests import TrainRequest
    from seg.train.adapting import adapt

    named = recipe if isinstance(recipe, Recipe) else find_recipe(recipe)
    own = {entry.name for entry in fields(Recipe)} - {"name"}
    changes = {name: value for name, value in options.items() if name in own}
    others = {name: value for name, value in options.items() if name not in own}
    asked = _request(TrainRequest, others, also_known=own)
    with _placed(asked) as (placed, session):
        request = adapt(
            lambda values: replace(placed, recipe=_change(apply_params(named, values), changes)),
            gpus=session.gpus_possible,
        )
        return run_training(request, session)


def score(archive: str | Path, models: Models, out: str | Path, **options: Any) -> "ScoreSummary":
    """Predict an archive and count it against its labels, as `fringe score` does; the same call resumes it.

    archive, out: folders, or s3://BUCKET/PATH, gs://BUCKET/PATH. models: as of `load`. options: fields of
    `seg.requests.ScoreRequest` (labels, limit, tta, masks, export, workers, ...).
    By default it works in this process where no cluster answers and no GPU is here, else as the job does;
    `workers=1` is a worker that is watched, for a night's archive.
    Returns the job's summary: `.place`, and `.values`, which is what summary.json holds; report.html and
    review.csv are written as well. RequestError: archive, models, labels and folder do not fit each other.

        done = fringe.score("archive", "runs/cells", "scores/cells", labels="labels")
        done.values["miou"], done.values["images_quarantined"]
        fringe.read_scores("scores/cells").images
    """
    from cluster.score import score as run_scoring
    from seg.requests import ScoreRequest
    from seg.score.summary import notifying, write_results

    fixed = {"archive": archive, "models": _model_files(models), "out": out}
    asked = _request(ScoreRequest, fixed | options)
    if asked.dry_run:
        raise RequestError("`dry_run` prints what a scoring would meet; that is for the command line")
    with _placed(asked) as (request, session), notifying(request) as ended:
        summary = run_scoring(request, session)
        ended(summary)
        if not summary.is_kept:
            write_results(summary, request.export)
    return summary


def read_scores(folder: str | Path) -> "ScoreTables":
    """What a scores folder holds, as Arrow tables, of which `.to_pandas()` makes frames.

    folder: the `out` of a scoring, or s3://BUCKET/PATH, gs://BUCKET/PATH. Columns: docs/reference/scores.md.
    RequestError: it is no scores folder, or its run.json is damaged.

        scores = fringe.read_scores("scores/cells")
        scores.images      # a row an image: image, height, width, confidence, class_pixels, ...
        scores.objects     # a row an object: image, class, x, y, width, height, area, iou, ...
        scores.quarantine  # a row an image that was set aside: image, reason, detail, ...
        scores.confusion   # int64 [C, C]: pixels by truth (row) and prediction (column)
        scores.iou         # {"background": 0.99, "cell": 0.91}
        scores.summary     # summary.json
    """
    from seg.report.tables import open_tables
    from seg.storage import as_place

    return open_tables(as_place(folder))


@contextmanager
def _placed(request: Job) -> "Iterator[tuple[Job, Session]]":
    """A job's request with its default of workers, and what it runs on, for the length of a block."""
    from cluster.placement import is_bare
    from cluster.session import compute_session

    with compute_session(use_ray=request.workers != 0) as session:
        here = request.workers is None and is_bare(session)  # of a scoring too, however large
        yield (replace(request, workers=0) if here else request), session


def _model_files(models: Models) -> list[Path]:
    """The model files that are meant. RequestError: as of `find_model_file`."""
    from seg.model_card import find_model_file

    return [find_model_file(Path(one)) for one in ([models] if isinstance(models, str | Path) else models)]


def _request(kind: type[Request], values: dict[str, Any], also_known: Iterable[str] = ()) -> Request:
    """A job's request of such fields. RequestError: one is unknown, or of another type."""
    hints = {name: hint for name, hint in get_type_hints(kind).items() if name != "recipe"}
    for name in values:
        if name not in hints:
            raise RequestError(describe_unknown("field", name, (*hints, *sorted(also_known))))
    return kind(**{name: _fit(name, hints[name], value) for name, value in values.items()})


def _fit(name: str, hint: Any, value: Any) -> Any:
    """A field's value as its type has it: texts become paths and places. RequestError: it is another's."""
    from seg.storage import Place, as_place

    if hint == tuple[Path, ...]:
        return tuple(map(Path, value))
    kinds = {hint, *get_args(hint)}
    if object in kinds and not (value is None and type(None) in kinds):  # how seg.requests types a place
        return as_place(value if isinstance(value, Path | Place) else _check(str, value, f"`{name}`"))
    if Path in kinds and isinstance(value, str | Path):
        return Path(value)
    return _check(hint, value, f"`{name}`")


def _change(recipe: "Recipe", changes: dict[str, Any]) -> "Recipe":
    """A recipe with other values; of a group, {"lr": 1e-3}, those that it names. RequestError: as above."""
    from seg.plain_data import to_plain

    plain = to_plain(recipe)
    for name, value in changes.items():
        within = isinstance(value, dict) and isinstance(plain[name], dict)
        plain[name] = plain[name] | value if within else str(value) if isinstance(value, Path) else value
    return _check(type(recipe), plain, "")


def _check(kind: Any, value: Any, where: str) -> Any:
    from seg.plain_data import from_plain, to_plain

    try:
        return from_plain(kind, to_plain(value), where)
    except (ValueError, TypeError) as error:  # TypeError: json knows nothing of its type
        raise RequestError(str(error)) from None
