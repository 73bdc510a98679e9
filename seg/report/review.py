"""Which images of an archive to label next, and which labels to look at again: review.csv."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from seg.ledger.outcome import Scored

REVIEWED, CHECKED = 1000, 100
"""Rows of review.csv in all, and those of them about labels to look at again."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image without a label, and what the model made of it."""

    image: str
    sequence: str
    confidence: float
    class_pixels: list[int]


@dataclass(frozen=True, slots=True)
class Choice:
    """A candidate in its sequence: its place by least confidence, from 1, and what a label of it is worth."""

    candidate: Candidate
    place: int
    worth: float


class Spread:
    """The unlabelled images of a stream that are most worth a label, spread over their sequences.

    Uncertainty sampling takes what the model is least confident of (Settles, Active Learning Literature
    Survey, 2009, section 3.1). Alone it would take one bad sequence frame by frame, and such frames teach
    much the same. So the k-th least confident image of a sequence is worth (1 - confidence) / k: sequences
    get images in proportion to their uncertainty, as parties get seats by D'Hondt's rule.

    More images of a sequence only lower what those after them are worth, and raise what the last one kept is
    worth. So what falls out once is out for good, and `count` images are all that is remembered.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.choices: list[Choice] = []
        """What is kept, the most worthwhile first, ties by name."""

    @property
    def least_doubt(self) -> float:
        """What 1 - confidence an image needs to be kept."""
        return self.choices[-1].worth if len(self.choices) == self.count else 0.0

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Take a part of the stream."""
        known = [choice.candidate for choice in self.choices]
        by_doubt = sorted([*known, *candidates], key=lambda one: (one.confidence, one.image))
        seen: Counter[str] = Counter()
        choices: list[Choice] = []
        for candidate in by_doubt:
            seen[candidate.sequence] += 1
            place = seen[candidate.sequence]
            choices.append(Choice(candidate, place, (1 - candidate.confidence) / place))
        self.choices = sorted(choices, key=lambda one: (-one.worth, one.candidate.image))[: self.count]


def format_review(spread: Spread, worst: Sequence[tuple[float, Scored]], classes: Sequence[str]) -> str:
    """review.csv: unlabelled images that are most worth a label, then labelled ones of the lowest mIoU.

    Where the model is far off, it may be the label that is wrong. worst: each with its mIoU, in order.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pixels = [f"pixels_{name}" for name in classes]
    writer.writerow(["rank", "image", "reason", "confidence", "miou", *pixels])
    rows = _rows(spread.choices, worst[:CHECKED])
    writer.writerows([rank, *row] for rank, row in enumerate(rows, start=1))
    return text.getvalue()


def _rows(choices: Sequence[Choice], checks: Sequence[tuple[float, Scored]]) -> Iterator[list[str | int]]:
    """Image, reason, confidence, mIoU, pixels by class."""
    for choice in choices[: REVIEWED - len(checks)]:
        one = choice.candidate
        where = "the top folder" if one.sequence == "." else one.sequence
        reason = f"to label: no. {choice.place} by least confidence in {where}"
        yield [one.image, reason, f"{one.confidence:.6f}", "", *one.class_pixels]
    for number, (miou, row) in enumerate(checks, start=1):
        reason = f"to check: no. {number} by lowest mIoU; the prediction is wrong, or the label"
        yield [row.image, reason, f"{row.confidence:.6f}", f"{miou:.6f}", *row.class_pixels]
