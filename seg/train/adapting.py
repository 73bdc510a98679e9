"""Values that, where nothing was asked for, are not the recipe's: this CPU, or the weights, want others."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from seg.errors import RequestError
from seg.files import read_json
from seg.plain_data import require
from seg.predict import passes
from seg.recipe import Params, Preprocessing
from seg.requests import DataRequest
from seg.train.start import find_card

log = logging.getLogger(__name__)
Request = TypeVar("Request", bound=DataRequest)


def adapt(ask: Callable[[Params], Request], *, gpus: int) -> Request:
    """The request that `ask` makes with such values standing for its recipe's, said on screen.

    ask: called with values by the fields' dotted names, below what was asked for. gpus: there are, or can be.
    """
    request, own = ask({}), Params()
    if not gpus and request.recipe.precision == "bf16" and not passes.has_fast_bf16():
        own["precision"] = "float32"
    followed = _follow_weights(request)
    if not own and not followed:
        return request
    adapted = ask(own | followed)
    if (
        followed and adapted.recipe.preprocessing.normalisation == "per_image"
    ):  # asked for: nothing is followed
        adapted = ask(own)
    if adapted.recipe.precision != request.recipe.precision:
        log.info("precision: float32, as this CPU has no instructions for bf16, the recipe's")
    if adapted.recipe.preprocessing != request.recipe.preprocessing:
        kind, weights = adapted.recipe.preprocessing.normalisation, request.recipe.weights
        log.info(f"normalisation: {kind}, as weights {weights} want it, not the recipe's per_image")
    return adapted


def _follow_weights(request: DataRequest) -> Params:
    """Values that make the normalisation the weights', where the recipe leaves it at its default.

    Torchvision's are told by name alone, and for a model file that is gone stands run.json of the run that
    began with it: one that goes on need not find its weights. None where a run has begun with the default.
    Of `fitted` the model file's statistics are not taken: the training fits its own images'.
    """
    weights, settings = request.recipe.weights, request.recipe.preprocessing
    begun = _read_begun(request.out)
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
