"""What a scoring would meet and cost, found out without writing: `dry_run`."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from seg.ahead import map_ahead
from seg.data.formats.header import Header
from seg.data.images import ImageFiles, Turned, split_page
from seg.data.labels import IGNORE, LabelMap, decode_label, draw_sample
from seg.data.listing import Listing
from seg.errors import DataWarning, ImageError, LabelMismatch, UnreadableImage
from seg.ledger.outcome import Outcome, Quarantined, Scored
from seg.progress import progress, time_span
from seg.score.rehearsal import Estimate, Power, Rest, choose_rehearsal, estimate_night, free_bytes
from seg.screen import open_console, visible
from seg.storage import Place, as_place

PLAIN_WIDTH = 1000
"""Off a terminal nothing is wrapped."""
KINDS_SHOWN, BAD_SHOWN = 12, 3
"""Kinds of images, and images a reason, that are listed; the rest is counted."""
HEADERS = 2000
"""Headers read at most, spread evenly over the archive; of fewer images all are."""
THREADS = 16
"""That read headers: on a server or an object store each waits for an answer."""
LABEL_THREADS, ROWS_AT_ONCE = 4, 256
"""That decode labels, and rows of a mask that are counted together: counting takes 8 bytes a pixel."""

ScoreSample = Callable[[list[str], Place], Iterable[Outcome]]
"""Scores some images in this process, with masks and backgrounds in the folder given."""


def print_dry_run(values: dict[str, Any]) -> None:
    """Print what a dry run found, on standard output."""
    console = open_console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for title, table in (
        _totals(values),
        _kinds(values),
        _bad(values),
        _label_classes(values),
        _bad_labels(values),
        _estimate(values),
    ):
        if table.row_count:
            table.box = box.ROUNDED if console.is_terminal else None
            table.pad_edge = console.is_terminal
            console.print(title, style="bold")
            console.print(table)


def _table(*headings: str) -> Table:
    """A table whose headings, if any, are for numbers where they end with '>'."""
    table = Table(show_header=bool(headings[0]), header_style="bold")
    for heading in headings:
        right = heading.endswith(">")
        table.add_column(heading.rstrip(">"), justify="right" if right else "left", overflow="fold")
    return table


def _totals(values: dict[str, Any]) -> tuple[str, Table]:
    table = _table("", "")
    table.add_row("images", f"{values['images']:,}, {_size(values['bytes'])}")
    if values["ignored"]:
        ignored = (f"{count:,} {kind}" for kind, count in values["ignored"].items())
        table.add_row("ignored", ", ".join(ignored))
    table.add_row("sequences", f"{values['sequences']:,}")
    labelled = values["labelled"]
    share = f" ({labelled / max(1, values['images']):.1%})" if labelled is not None else ""
    table.add_row("labelled", "no labels given" if labelled is None else f"{labelled:,}{share}")
    done = f"{values['finished']:,} in the ledger, {values['quarantined']:,} in quarantine"
    table.add_row("done before", done)
    table.add_row("to score", f"{values['pending']:,}")
    return f"archive {values['archive']}", table


def _kinds(values: dict[str, Any]) -> tuple[str, Table]:
    read, images = values["headers_read"], values["images"]
    title = f"headers, all {read:,}" if read == images else f"headers, {read:,} of {images:,} spread evenly"
    table = _table("format", "pixels", "width x height", "images>", "share>")
    kinds = values["kinds"]
    for kind in kinds[:KINDS_SHOWN]:
        pixels = f"{kind['bit_depth']} bit {'gray' if kind['channels'] == 1 else 'RGB'}"
        size, count = f"{kind['width']} x {kind['height']}", kind["images"]
        table.add_row(kind["format"], pixels, size, f"{count:,}", f"{count / read:.1%}")
    if rest := kinds[KINDS_SHOWN:]:
        count = sum(kind["images"] for kind in rest)
        table.add_row(f"{len(rest)} more", "", "", f"{count:,}", f"{count / read:.1%}")
    return title, table


def _label_classes(values: dict[str, Any]) -> tuple[str, Table]:
    """Pixels by class of a sample of labels, beside the shares that the model was trained on."""
    read, classes = values["labels_read"], values["label_classes"]
    known = any(row["trained"] is not None for row in classes)
    table = _table("class", "pixels>", "share>", *(["in training>"] if known else []))
    for row in classes if read else []:
        trained = [f"{row['trained']:.2%}"] if known else []
        table.add_row(row["class"], f"{row['pixels']:,}", f"{row['share']:.2%}", *trained)
    if read and values["label_ignored"]:
        table.add_row("ignored", f"{values['label_ignored']:,}", "", *([""] if known else []))
    labelled = values["labelled"] or 0
    looked_at = f"all {read:,}" if read == labelled else f"{read:,} of {labelled:,}"
    return f"labels, {looked_at}", table


def _bad_labels(values: dict[str, Any]) -> tuple[str, Table]:
    table, found = _table("", ""), values["bad_labels"]
    for bad in found[:BAD_SHOWN]:
        table.add_row(bad["image"], bad["detail"])
    if len(found) > BAD_SHOWN:
        table.add_row(f"and {len(found) - BAD_SHOWN:,} more", "")
    return "bad labels among these: their images go to quarantine", table


def _bad(values: dict[str, Any]) -> tuple[str, Table]:
    table = _table("reason", "images>", "which")
    for reason, found in values["bad_headers"].items():
        lines = [f"{visible(bad['image'])}: {visible(bad['detail'])}" for bad in found[:BAD_SHOWN]]
        if len(found) > BAD_SHOWN:
            lines.append(f"and {len(found) - BAD_SHOWN:,} more")
        table.add_row(reason, f"{len(found):,}", "\n".join(lines))
    return "bad headers: these go to quarantine", table


def _estimate(values: dict[str, Any]) -> tuple[str, Table]:
    timed = len(values["timed"])
    title = f"estimate, from {timed} image{'' if timed == 1 else 's'} timed here"
    table = _table("", "")
    for bad in values["timed_bad"]:
        table.add_row("set aside", f"{bad['image']}: {bad['reason']}, {bad['detail']}")
    if values["seconds"] is None:
        table.add_row("time", "not known: nothing to score" if not values["pending"] else "not known")
        return title, table
    workers = f"{values['workers']} worker{'' if values['workers'] == 1 else 's'}"
    table.add_row("time", f"about {time_span(values['seconds'])} with {workers}, besides Ray's start")
    free, wanted = values["bytes_free"], values["bytes_to_write"]
    room = "" if free is None else f", {_size(free)} free"
    short = "; NOT ENOUGH" if free is not None and wanted > free else ""
    table.add_row("disk", f"about {_size(wanted)}{room} in {values['out']}{short}")
    return title, table


def _size(count: int) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The labels of an archive."""

    place: Place
    names: Mapping[str, str]
    """Each labelled image's, relative to `place`."""
    classes: tuple[str, ...]
    label_map: LabelMap
    trained: tuple[float, ...] = ()
    """Share of each class in the labels that the model was trained on; empty: not known."""


@dataclass(slots=True)
class LabelSurvey:
    """What a sample of the labels holds."""

    pixels: NDArray[np.int64]
    """Of each class [C], and last those that are ignored."""
    read: int = 0
    """Labels whose pixels these are."""
    bad: list[tuple[str, str]] = field(default_factory=list)
    """Image and detail of labels that go to quarantine with their image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """A scoring that was checked and not begun."""

    archive: Place
    listing: Listing
    """With the bytes of each image's file."""
    labels: Collection[str] | None
    """Images with a label; None: no labels were given."""
    sequences: int
    finished: int
    """Of the images, those in the ledger."""
    quarantined: int
    pending: Sequence[str]
    truth: Truth | None = None
    """Where the labels are and what they mean; None: there are none to look into."""
    out: Place
    masks: bool
    power: Power
    """workers as the night has them; on_gpu: whether this process scores on a GPU."""


@dataclass(slots=True)
class HeaderSurvey:
    """What headers say: how many images of each kind, and which are bad."""

    kinds: Counter[Header] = field(default_factory=Counter)
    bad: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """Image and detail of each, by the reason its quarantine row would have."""

    turned: Turned = field(default_factory=Turned)
    """Those that carry an orientation."""

    @property
    def read(self) -> int:
        """Headers that were looked at."""
        return self.kinds.total() + sum(map(len, self.bad.values()))


def dry_run(plan: DryRun, score_sample: ScoreSample) -> dict[str, Any]:
    """Look at headers, time three images, print what was found; the same as plain values.

    Nothing is written in `out`: the timed images' masks go to a temporary folder.
    """
    survey = survey_headers(plan.archive, plan.listing.images)
    truth = plan.truth and survey_labels(plan.archive, plan.listing.images, plan.truth)
    bad = {image for found in survey.bad.values() for image, _ in found}
    pending = frozenset(plan.pending)
    waiting = np.fromiter((image in pending for image in plan.listing.images), bool)
    rest = Rest(len(plan.pending), int(plan.listing.bytes[waiting].sum()))
    sound = [image for image in plan.pending if image not in bad]
    timed, estimate = time_sample(choose_rehearsal(sound), rest, plan.power, score_sample)
    values = describe(plan, survey, timed, estimate) | describe_labels(plan.truth, truth)
    print_dry_run(values)
    if survey.turned.warning:
        warnings.warn(DataWarning(survey.turned.warning), stacklevel=2)
    return values


def survey_headers(archive: Place, images: Sequence[str], limit: int = HEADERS) -> HeaderSurvey:
    """Read the headers of all images, or of `limit` that are spread evenly over them."""
    survey = HeaderSurvey()
    places = np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(int)
    chosen = [images[int(place)] for place in places]
    with ThreadPoolExecutor(THREADS) as pool, progress("headers", len(chosen)) as advance:
        found = map_ahead(pool, partial(_look, ImageFiles(archive)), chosen, 4 * THREADS)
        for image, header in zip(chosen, found, strict=True):
            if isinstance(header, tuple):
                survey.kinds[header[0]] += 1
                survey.turned.add(image, header[1])
            else:
                survey.bad.setdefault(header.reason, []).append((image, str(header)))
            advance()
    return survey


def _look(files: ImageFiles, image: str) -> tuple[Header, int] | ImageError:
    """An image's header and orientation, or why it will be set aside."""
    file, page = split_page(image)
    try:
        return files.look(file, page)
    except ImageError as error:
        return error
    except OSError as error:
        return UnreadableImage(f"{files.place}/{file} cannot be read: {error.strerror or error}")


def survey_labels(archive: Place, images: Sequence[str], truth: Truth) -> LabelSurvey:
    """Count the pixels of a sample of the images' labels by class, as scoring will see them."""
    survey = LabelSurvey(np.zeros(len(truth.classes) + 1, np.int64))
    chosen = draw_sample([image for image in images if image in truth.names])
    with ThreadPoolExecutor(LABEL_THREADS) as pool, progress("labels", len(chosen)) as advance:
        found = map_ahead(pool, partial(_count_label, ImageFiles(archive), truth), chosen, 2 * LABEL_THREADS)
        for image, pixels in zip(chosen, found, strict=True):
            if isinstance(pixels, LabelMismatch):
                survey.bad.append((image, str(pixels)))
            elif pixels is not None:
                survey.pixels += pixels
                survey.read += 1
            advance()
    return survey


def _count_label(files: ImageFiles, truth: Truth, image: str) -> NDArray[np.int64] | LabelMismatch | None:
    """Pixels of one label, int64 [C + 1], the last ignored; None: its image has a bad header."""
    found, name = _look(files, image), truth.names[image]
    if isinstance(found, ImageError):
        return None
    header = found[0]
    where, size, num_classes = f"{truth.place}/{name}", (header.height, header.width), len(truth.classes)
    try:
        data = truth.place.read(name)
        if data is None:
            return LabelMismatch(f"label {where} is no longer there")
        mask = decode_label(data, Path(where), size, truth.classes, truth.label_map)
    except LabelMismatch as error:
        return error
    except OSError as error:
        return LabelMismatch(f"label {where} cannot be read: {error.strerror or error}")
    strips = np.array_split(mask, range(ROWS_AT_ONCE, size[0], ROWS_AT_ONCE))
    counts = np.sum([np.bincount(strip.ravel(), minlength=IGNORE + 1) for strip in strips], 0)
    return np.append(counts[:num_classes], counts[IGNORE])


def time_sample(
    images: list[str], rest: Rest, power: Power, score_sample: ScoreSample
) -> tuple[list[Outcome], Estimate]:
    """Outcomes of some images that were scored into a temporary folder, and what they foretell."""
    with tempfile.TemporaryDirectory(prefix="fringe-dry-run-") as folder:
        timed = list(score_sample(images, as_place(folder))) if images else []
        return timed, estimate_night(timed, rest, power)


def describe_labels(truth: Truth | None, survey: LabelSurvey | None) -> dict[str, Any]:
    """What a sample of the labels holds, as plain values."""
    if truth is None or survey is None:
        return {"labels_read": 0, "label_classes": [], "bad_labels": []}
    counted = max(1, int(survey.pixels[:-1].sum()))
    trained = truth.trained or [None] * len(truth.classes)
    return {
        "labels_read": survey.read + len(survey.bad),
        "label_classes": [
            {"class": name, "pixels": pixels, "share": pixels / counted, "trained": share}
            for name, pixels, share in zip(truth.classes, survey.pixels[:-1].tolist(), trained, strict=True)
        ],
        "label_ignored": int(survey.pixels[-1]),
        "bad_labels": [{"image": image, "detail": detail} for image, detail in survey.bad],
    }


def describe(plan: DryRun, survey: HeaderSurvey, timed: list[Outcome], estimate: Estimate) -> dict[str, Any]:
    """All that was found out, as plain values."""
    labels = plan.labels
    return {
        "archive": str(plan.archive),
        "images": len(plan.listing.images),
        "bytes": int(plan.listing.bytes.sum()),
        "ignored": plan.listing.ignored,
        "sequences": plan.sequences,
        "labelled": None if labels is None else sum(image in labels for image in plan.listing.images),
        "finished": plan.finished,
        "quarantined": plan.quarantined,
        "pending": len(plan.pending),
        "headers_read": survey.read,
        "kinds": [
            {
                "format": kind.format,
                "bit_depth": kind.bit_depth,
                "channels": kind.channels,
                "height": kind.height,
                "width": kind.width,
                "images": count,
            }
            for kind, count in survey.kinds.most_common()
        ],
        "bad_headers": {
            reason: [{"image": image, "detail": detail} for image, detail in found]
            for reason, found in sorted(survey.bad.items())
        },
        "timed": [one.image for one in timed if isinstance(one, Scored)],
        "timed_bad": [
            {"image": one.image, "reason": one.reason, "detail": one.detail}
            for one in timed
            if isinstance(one, Quarantined)
        ],
        "workers": plan.power.workers,
        "seconds": estimate.seconds,
        "bytes_to_write": estimate.bytes,
        "out": str(plan.out),
        "bytes_free": free_bytes(plan.out),
    }
