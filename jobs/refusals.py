"""What is refused before torch is imported, in a second: names, paths and folders that are not there.

Each sentence is the library's own, which looks again where it works.
"""

import os
import sys
import warnings
from pathlib import Path

from jobs.run import in_options
from seg.catalogue import check_names
from seg.errors import DataWarning, RequestError
from seg.files import require_data_folder, require_model_file
from seg.requests import DataRequest, PredictRequest, ScoreRequest, TrainRequest
from seg.screen import say


def refuse_training(request: DataRequest) -> None:
    """RequestError: names of the recipe that nobody knows; data that are not there or not its data set's.

    Which data stand for those that are not given is said, before anything else is.
    """
    check_names(request.recipe)
    if request.out is not None and request.out.is_file():
        raise RequestError(f"`out={request.out.resolve()}` is a file; give an empty or a new folder")
    demo = isinstance(request, TrainRequest) and request.demo
    if demo and request.data is not None:
        raise RequestError(f"`data={request.data}` and `demo` are two archives; give one of them")
    given = None if demo else request.data or os.environ.get("FRINGE_DATA")
    if given is not None:
        require_data_folder(Path(given))
    from seg.data.plain import LabelRule  # here: they load OpenCV
    from seg.pack import training_data

    folder, frames = training_data.FOLDER, training_data.SIMULATED
    if given is None and isinstance(request, TrainRequest) and not demo and _asks_for_data(folder):
        raise RequestError(
            f"no `data` is given, and there is neither $FRINGE_DATA nor {folder}; give `data=DIR`, the "
            f"folder of your images and labels, or `demo`, to train on {frames} simulated frames"
        )
    if request.data is None:
        say(in_options(training_data.describe_default_data(demo=demo)))
    if given is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the training will say them
        training_data.check_limit(request.limit)
        request = training_data.apply_foreground(request)
        rule = LabelRule.of(request)
        training_data.find_samples(Path(given), request.recipe, seed=request.seed, labels=rule)


def _asks_for_data(folder: Path) -> bool:
    """Whether somebody sits there who can answer, and nothing says that simulated data are meant."""
    from cluster.session import finds_cluster

    at_terminal = all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))
    return at_terminal and not folder.is_dir() and not finds_cluster()


def refuse_scoring(request: ScoreRequest) -> None:
    """RequestError: a folder of this machine, or a model file, that is not there."""
    _refuse_missing_models(request.models)
    from seg.storage import refuse_unlisted, require_archive, require_label_folder  # here: it loads Arrow

    for place, require in ((request.archive, require_archive), (request.labels, require_label_folder)):
        if place is not None and place.is_local:
            with refuse_unlisted(place):
                require(place)


def refuse_predicting(request: PredictRequest) -> None:
    """RequestError: images or a model file that are not there."""
    _refuse_missing_models(request.models)
    from seg.data.named import list_named

    list_named(request.images, request.archive)


def _refuse_missing_models(models: tuple[Path, ...]) -> None:
    for model in models:
        if not model.exists():
            require_model_file(model)
