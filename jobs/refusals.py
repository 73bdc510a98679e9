"""What is refused before torch is imported, in a second: names, paths and folders that are not there.

Each sentence is the library's own, which looks again where it works.
"""

import os
import warnings
from pathlib import Path

from seg.catalogue import check_names
from seg.errors import DataWarning, RequestError
from seg.requests import DataRequest, PredictRequest, ScoreRequest


def refuse_training(request: DataRequest) -> None:
    """RequestError: names of the recipe that nobody knows; data that are not there or not its data set's."""
    check_names(request.recipe)
    if request.out is not None and request.out.is_file():
        raise RequestError(f"`out={request.out.resolve()}` is a file; give an empty or a new folder")
    given = request.data or os.environ.get("FRINGE_DATA")
    if given is None:
        return
    from seg.pack.training_data import (  # here, so that what is wrong above loads no OpenCV
        apply_foreground,
        check_limit,
        find_samples,
        label_rule,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the training will say them
        check_limit(request.limit)
        request = apply_foreground(request)
        find_samples(Path(given), request.recipe, seed=request.seed, labels=label_rule(request))


def refuse_scoring(request: ScoreRequest) -> None:
    """RequestError: a folder of this machine, or a model file, that is not there."""
    _refuse_missing_models(request.models)
    from seg.data.listing import refuse_unlisted, require_archive
    from seg.data.pairing import require_label_folder

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
            raise RequestError(f"model {model} is not there; give the best.safetensors of a run")
