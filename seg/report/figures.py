"""Figures of single images of a scores folder, drawn by lot or chosen: image, truth, prediction, error."""

import io
import logging
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from seg.errors import RequestError
from seg.figures.pages import put_page
from seg.figures.plots import draw_predictions
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import Scored
from seg.progress import progress
from seg.report.pictures import load_example, picture_sources
from seg.report.survey import Survey, read_scores
from seg.requests import ReportRequest
from seg.storage import Place

log = logging.getLogger(__name__)

MOST_FIGURES = 16
"""Images on a page, whose pixels are in memory together: 0.6 GB of frames of 3072 x 3072 and 16 bits."""


def write_figures(place: Place, survey: Survey, request: ReportRequest) -> str:
    """Write figures.png of a scores folder, or FILE-figures.png beside its page, a row an image; where it is.

    The same folder and request give the same picture.
    RequestError: a name or number that does not fit, no masks, no image that can be shown, as of `put_page`.
    """
    scores = read_scores(place)
    sources = picture_sources(scores)
    if sources is None:
        raise RequestError(
            f"{place.uri} was scored without masks, so there is nothing to show; score it again, with masks"
        )
    images = choose_images(survey, request)
    rows, examples = find_rows(survey.ledger, images), []
    with progress("drawing figures", len(images)) as advance:
        for image in images:
            example, notes = load_example(sources, rows[image])
            for note in notes:
                log.info(f"{image}: {note}")
            examples += [] if example is None else [example]
            advance()
    if not examples:
        raise RequestError(f"none of the {len(images)} images of {place.uri} can be shown; choose others")
    picture = io.BytesIO()
    draw_predictions(examples, scores.run.classes).save(picture)
    out = request.out and request.out.with_name(f"{request.out.stem}-figures.png")
    return put_page(place, "figures.png", picture.getvalue(), out)


def choose_images(survey: Survey, request: ReportRequest) -> list[str]:
    """The images that a request names, then those that it draws by lot; errors as of `write_figures`."""
    for field in ("figures", "seed"):
        if getattr(request, field) < 0:
            raise RequestError(f"`{field}` is {getattr(request, field)}, below 0; try `{field}=8`")
    by_image = survey.by_image()
    names = [by_image.name(place) for place in range(len(by_image))] if request.images else []
    named = [image for word in request.images for image in _match(word, names)]
    drawn = draw_lots(by_image.miou, request.figures, request.seed)
    images = list(dict.fromkeys([*named, *map(by_image.name, drawn.tolist())]))
    if not 0 < len(images) <= MOST_FIGURES:
        raise RequestError(
            f"{len(images)} images are to be shown of the {len(by_image)} in {survey.ledger.place.uri}; show "
            f"1 to {MOST_FIGURES}: `figures=8`, or some by name, `images=NAME`"
        )
    return images


def draw_lots(miou: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Places of up to `count` images, ascending: any set of them is as likely, and the seed decides.

    miou: of every image in the archive's order, NaN without one. Where any has one, only these take part.
    """
    known = np.flatnonzero(~np.isnan(miou))
    among = known if len(known) else np.arange(len(miou))
    return np.sort(np.random.default_rng(seed).choice(among, min(count, len(among)), replace=False))


def find_rows(ledger: Ledger, images: Iterable[str]) -> dict[str, Scored]:
    """The rows of some images of a ledger, by name; a part at a time is in memory."""
    wanted = pc.SetLookupOptions(pa.array(images, pa.string()))
    found: dict[str, Scored] = {}
    for rows in ledger.rows():
        mine = rows.filter(pc.call_function("is_in", [rows["image"]], wanted))
        found |= {row["image"]: Scored(**row) for row in mine.to_pylist()}
    return found


def _match(word: str, names: Sequence[str]) -> list[str]:
    found = [word] if word in names else [name for name in names if fnmatchcase(name, word)]
    if not found:
        near = " or ".join(get_close_matches(word, names))
        question = f"did you mean {near}?" if near else "names are as in the ledger, relative to the archive"
        raise RequestError(f"`images={word}` is no image that was scored; {question}")
    return found
