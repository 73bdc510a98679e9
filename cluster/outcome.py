"""How a job ends, in the words of summary.json and in its exit code (docs/formats.md)."""

from enum import StrEnum


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
