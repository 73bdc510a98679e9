"""What a scoring would meet and cost, found out without writing: `dry_run`."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from seg.data.formats.header import Header
from seg.data.images import ImageFiles, Turned, split_page
from seg.data.labels import IGNORE, LabelDecoder, LabelMap, decode_label, draw_sample, open_label
from seg.data.listing import Listing
from seg.errors import DataWarning, ImageError, LabelMismatch, UnreadableImage
from seg.ledger.outcome import Outcome, Quarantined
from seg.progress import progress
from seg.score.rehearsal import Estimate, Power, Rest, choose_rehearsal, estimate_night, free_bytes
from seg.screen import open_console, visible
from seg.storage import Place, as_place
from seg.threads import map_ahead
from seg.words import file_size, plural, time_span

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The labels of an archive."""

    place: Place
    names: Mapping[str, str]
    """Each labelled image's, relative to `place`."""
    classes: tuple[str, ...]
    label_map: LabelMap
    decoder: LabelDecoder | None = None
    """Reads masks that do not store ids."""
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

    @property
    def looked_at(self) -> int:
        """Labels in all."""
        return self.read + len(self.bad)


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
    power: Power
    """workers as the night has them; on_gpu: whether this process scores on a GPU."""

    @property
    def labelled(self) -> int | None:
        """Images with a label; None: no labels were given."""
        return None if self.labels is None else sum(image in self.labels for image in self.listing.images)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a dry run found."""

    plan: DryRun
    headers: HeaderSurvey
    labels: LabelSurvey | None
    """None: there are none to look into."""
    timed: list[Outcome]
    estimate: Estimate
    bytes_free: int | None
    """Where the results will be; None: that cannot be known."""


def print_dry_run(found: Findings) -> None:
    """Print what a dry run found, on standard output."""
    console = open_console()
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    for describe in (_totals, _kinds, _bad_headers, _label_classes, _bad_labels, _estimate):
        title, table = describe(found)
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


def _totals(found: Findings) -> tuple[str, Table]:
    plan, table = found.plan, _table("", "")
    images, labelled = len(plan.listing.images), plan.labelled
    table.add_row("images", f"{images:,}, {file_size(int(plan.listing.bytes.sum()))}")
    if plan.listing.ignored:
        table.add_row(
            "ignored", ", ".join(f"{count:,} {kind}" for kind, count in plan.listing.ignored.items())
        )
    table.add_row("sequences", f"{plan.sequences:,}")
    share = f" ({labelled / max(1, images):.1%})" if labelled is not None else ""
    table.add_row("labelled", "no labels given" if labelled is None else f"{labelled:,}{share}")
    table.add_row("done before", f"{plan.finished:,} in the ledger, {plan.quarantined:,} in quarantine")
    table.add_row("to score", f"{len(plan.pending):,}")
    return f"archive {plan.archive}", table


def _kinds(found: Findings) -> tuple[str, Table]:
    read, images = found.headers.read, len(found.plan.listing.images)
    title = f"headers, all {read:,}" if read == images else f"headers, {read:,} of {images:,} spread evenly"
    table = _table("format", "pixels", "width x height", "images>", "share>")
    kinds = found.headers.kinds.most_common()
    for kind, count in kinds[:KINDS_SHOWN]:
        pixels = f"{kind.bit_depth} bit {'gray' if kind.channels == 1 else 'RGB'}"
        size = f"{kind.width} x {kind.height}"
        table.add_row(kind.format, pixels, size, f"{count:,}", f"{count / read:.1%}")
    if rest := [count for _, count in kinds[KINDS_SHOWN:]]:
        table.add_row(f"{len(rest)} more", "", "", f"{sum(rest):,}", f"{sum(rest) / read:.1%}")
    return title, table


def _label_classes(found: Findings) -> tuple[str, Table]:
    """Pixels by class of a sample of labels, beside the shares that the model was trained on."""
    truth, labels = found.plan.truth, found.labels
    if truth is None or labels is None or not labels.looked_at:
        return "", _table("")
    *pixels, ignored = labels.pixels.tolist()
    counted, trained = max(1, sum(pixels)), [[f"{share:.2%}"] for share in truth.trained]
    table = _table("class", "pixels>", "share>", *(["in training>"] if trained else []))
    for name, count, share in zip(truth.classes, pixels, trained or [[] for _ in pixels], strict=True):
        table.add_row(name, f"{count:,}", f"{count / counted:.2%}", *share)
    if ignored:
        table.add_row("ignored", f"{ignored:,}", "", *([""] if trained else []))
    read, labelled = labels.looked_at, found.plan.labelled or 0
    return f"labels, {f'all {read:,}' if read == labelled else f'{read:,} of {labelled:,}'}", table


def _bad_labels(found: Findings) -> tuple[str, Table]:
    table, bad = _table("", ""), found.labels.bad if found.labels else []
    for image, detail in bad[:BAD_SHOWN]:
        table.add_row(image, detail)
    if len(bad) > BAD_SHOWN:
        table.add_row(f"and {len(bad) - BAD_SHOWN:,} more", "")
    return "bad labels among these: their images go to quarantine", table


def _bad_headers(found: Findings) -> tuple[str, Table]:
    table = _table("reason", "images>", "which")
    for reason, bad in sorted(found.headers.bad.items()):
        lines = [f"{visible(image)}: {visible(detail)}" for image, detail in bad[:BAD_SHOWN]]
        if len(bad) > BAD_SHOWN:
            lines.append(f"and {len(bad) - BAD_SHOWN:,} more")
        table.add_row(reason, f"{len(bad):,}", "\n".join(lines))
    return "bad headers: these go to quarantine", table


def _estimate(found: Findings) -> tuple[str, Table]:
    plan, estimate, free, table = found.plan, found.estimate, found.bytes_free, _table("", "")
    aside = [one for one in found.timed if isinstance(one, Quarantined)]
    title = f"estimate, from {plural(len(found.timed) - len(aside), 'image')} timed here"
    for one in aside:
        table.add_row("set aside", f"{one.image}: {one.reason}, {one.detail}")
    if estimate.seconds is None or estimate.bytes is None:
        table.add_row("time", "not known" if plan.pending else "not known: nothing to score")
        return title, table
    workers = plural(plan.power.workers, "worker")
    table.add_row("time", f"about {time_span(estimate.seconds)} with {workers}, besides Ray's start")
    room = "" if free is None else f", {file_size(free)} free"
    short = "; NOT ENOUGH" if free is not None and estimate.bytes > free else ""
    table.add_row("disk", f"about {file_size(estimate.bytes)}{room} in {plan.out}{short}")
    return title, table


def dry_run(plan: DryRun, score_sample: ScoreSample) -> Findings:
    """Look at headers, time three images, print what was found, and return it.

    Nothing is written in `out`: the timed images' masks go to a temporary folder.
    """
    headers = survey_headers(plan.archive, plan.listing.images)
    labels = plan.truth and survey_labels(plan.archive, plan.listing.images, plan.truth)
    bad = {image for found in headers.bad.values() for image, _ in found}
    pending = frozenset(plan.pending)
    waiting = np.fromiter((image in pending for image in plan.listing.images), bool)
    rest = Rest(len(plan.pending), int(plan.listing.bytes[waiting].sum()))
    sound = [image for image in plan.pending if image not in bad]
    timed, estimate = time_sample(choose_rehearsal(sound), rest, plan.power, score_sample)
    found = Findings(
        plan=plan,
        headers=headers,
        labels=labels,
        timed=timed,
        estimate=estimate,
        bytes_free=free_bytes(plan.out),
    )
    print_dry_run(found)
    if headers.turned.warning:
        warnings.warn(DataWarning(headers.turned.warning), stacklevel=2)
    return found


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
        count = partial(_count_label, ImageFiles(archive), ImageFiles(truth.place), truth)
        found = map_ahead(pool, count, chosen, 2 * LABEL_THREADS)
        for image, pixels in zip(chosen, found, strict=True):
            if isinstance(pixels, LabelMismatch):
                survey.bad.append((image, str(pixels)))
            elif pixels is not None:
                survey.pixels += pixels
                survey.read += 1
            advance()
    return survey


def _count_label(
    files: ImageFiles, labels: ImageFiles, truth: Truth, image: str
) -> NDArray[np.int64] | LabelMismatch | None:
    """Pixels of one label, int64 [C + 1], the last ignored; None: its image has a bad header."""
    found, name = _look(files, image), truth.names[image]
    if isinstance(found, ImageError):
        return None
    header = found[0]
    where, size, num_classes = f"{truth.place}/{name}", (header.height, header.width), len(truth.classes)
    try:
        data = open_label(labels, name)
        mask = decode_label(data, Path(where), size, truth.classes, truth.label_map, truth.decoder)
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
