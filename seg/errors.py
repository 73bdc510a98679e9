"""What a job may raise for its user, and how it ends: the words of summary.json and the exit codes."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Any


class RequestError(Exception):
    """What was asked for cannot be done as asked: one sentence of what is wrong, where, and how to mend it.

    Jobs print it without a traceback and exit with 2. It takes one message, so that it crosses processes.
    """


class DamagedFile(Exception):
    """A file that we wrote is not as we wrote it: one sentence of which, how that shows, and what to do.

    Nothing is told of the folder it is in. Jobs print it without a traceback and exit with 1.
    """


class OutOfMemory(RequestError):
    """What was asked for does not fit into a worker's memory, of one worker alone maybe."""


class TrainingDiverged(Exception):
    """The loss was not finite in so many steps in a row that a training cannot go on.

    The same steps would diverge again: a training that ended so is not started anew by itself.
    """


class DataWarning(UserWarning):
    """Data was used otherwise than it says, or not at all; jobs print it as a line."""


class ImageError(Exception):
    """One image, or its label, cannot be used; `reason` is the word its quarantine row carries.

    Scoring sets the image aside and goes on; training, which may not choose its data, refuses.
    """

    reason = "unreadable"


class UnreadableImage(ImageError):
    """The bytes are of no format we read, or damaged inside."""


class TruncatedImage(ImageError):
    """The file ends before its image does."""

    reason = "truncated"


class EmptyImage(ImageError):
    """The file has no bytes, or the image no pixels."""

    reason = "empty"


class UnsupportedImage(ImageError):
    """A sound image of a kind we do not score: its depth, its channels, or what the model was fitted on."""

    reason = "unsupported"


class TooLargeImage(ImageError):
    """The header announces more pixels than we are willing to decode."""

    reason = "too_large"


class LabelMissing(ImageError):
    """The image has no label where one is required."""

    reason = "label_missing"


class LabelMismatch(ImageError):
    """The label is of another size than its image, has an unknown class id, or cannot be read."""

    reason = "label_mismatch"


def describe_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not known: the nearest that are, best first, then all of them."""
    known = tuple(known)
    near = " or ".join(get_close_matches(name, known))
    question = f"did you mean {near}? " if near else ""
    return f"unknown {kind} {name!r}; {question}known: {', '.join(known)}"


class StoppedBy(StrEnum):
    """Why a job stopped; the word in its summary.json."""

    FINISHED = "finished"
    DEADLINE = "deadline"
    INTERRUPT = "interrupt"
    ERROR = "error"


DONE, FAILED, REFUSED, QUARANTINED, STOPPED_EARLY = 0, 1, 2, 3, 4

EXIT_CODES: dict[str, int] = {
    StoppedBy.FINISHED: DONE,
    StoppedBy.DEADLINE: STOPPED_EARLY,
    StoppedBy.INTERRUPT: STOPPED_EARLY,
    StoppedBy.ERROR: FAILED,
}


def exit_code(stopped_by: str, quarantined: int = 0) -> int:
    """What a job ends with (docs/reference/commands.md): 3: finished, with images in quarantine."""
    code = EXIT_CODES[stopped_by]
    return QUARANTINED if code == DONE and quarantined else code


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSummary:
    """How a job ended."""

    values: dict[str, Any]
    """What its summary.json holds."""

    @property
    def exit_code(self) -> int:
        """The job's."""
        return exit_code(self.values["stopped_by"], self.values.get("images_quarantined", 0))
