"""status.json of a scores folder: written once a minute while it is scored, read by whoever wants to know."""

import json
import time
import warnings
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType

from cluster.live_view import live_view
from cluster.scoring.scoring_picture import draw_status, log_note, silence
from cluster.scoring.scoring_status import ScoringStatus
from seg.errors import DataWarning, RequestError
from seg.files import without_nan
from seg.screen import open_console, say
from seg.storage import Place, refusing

if TYPE_CHECKING:
    from cluster.scoring.scoring_progress import ScoringProgress

FILE = "status.json"
EVERY_S = 60.0
"""Seconds between two writes, and between two lines in a log."""
READ_EVERY_S = 5.0


class StatusWriter:
    """Leaves in a scores folder how far its scoring is.

    Storage that refuses is warned of, once until it takes a file again: the scoring goes on as long as its
    rows can be committed.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._written, self._refused = -EVERY_S, False

    def write(self, progress: "ScoringProgress", *, at_once: bool = False) -> None:
        """Write status.json, unless that was done less than a minute ago; at_once: in any case."""
        if not at_once and time.monotonic() - self._written < EVERY_S:
            return
        self._written = time.monotonic()
        try:
            self.place.write_json(FILE, asdict(progress.status()))
        except OSError as error:
            if not self._refused:
                text = f"{self.place}/{FILE} cannot be written ({error}); it tells what was true before"
                warnings.warn(DataWarning(text), stacklevel=2)
            self._refused = True
        else:
            self._refused = False


class StatusReader:
    """A scoring as its status.json tells it: what a live view of another machine's work watches."""

    def __init__(self, place: Place) -> None:
        """RequestError: the folder holds no status.json, or none of ours."""
        self.place = place
        self.status = self._read()
        self.title, self.total = self.status.title, self.status.images_total

    def _read(self) -> ScoringStatus:
        where = f"{self.place}/{FILE}"
        with refusing(self.place.uri):
            content = self.place.read(FILE)
        if content is None:
            raise RequestError(f"{where} is not there; give the folder that was --out of a scoring")
        try:
            return ScoringStatus.from_json(content)
        except (ValueError, RequestError) as error:
            raise RequestError(
                f"{where} is no status of a scoring ({error}); was another version at work?"
            ) from None

    @property
    def done(self) -> int:
        """Images in ledger or quarantine."""
        return self.status.images_done

    @property
    def note(self) -> str:
        """The rest of a log's line."""
        return silence(self.status, self.silence_s) if self.silence_s else log_note(self.status)

    @property
    def silence_s(self) -> float:
        """Seconds without a sign of life; 0: all is well, or it has ended."""
        return self.status.silence_s(datetime.now(UTC))

    @property
    def exit_code(self) -> int:
        """The command's own where it has ended, 0 while it works, 1 where it gives no sign of life."""
        return self.status.exit_code(datetime.now(UTC))

    def look(self) -> None:
        """Read the file again."""
        self.status = self._read()

    def picture(self, height: int) -> RenderableType:
        """As the scoring itself draws it, and an alarm where it is silent."""
        return draw_status(self.status, self.silence_s)


def show_status(place: Place, *, watch: bool = False, as_json: bool = False) -> int:
    """Print how far the scoring in a folder is; its exit code (docs/formats.md). RequestError: there is none.

    watch: go on until it has ended or Ctrl-C. as_json: the plain values, with `silent_seconds`.
    """
    reader = StatusReader(place)
    if watch:
        watch_status(reader)
    elif not as_json:
        console = open_console()
        console.print(reader.picture(console.height))
    if as_json:
        values = without_nan(asdict(reader.status) | {"silent_seconds": reader.silence_s})
        for line in json.dumps(values, indent=2).splitlines():  # in ASCII: a name's controls do nothing
            say(line, out=True)
    return reader.exit_code


def watch_status(reader: StatusReader) -> None:
    """Show a scoring until it has ended, a line a minute where there is no terminal; Ctrl-C ends that."""
    try:
        with live_view(reader, line_every_s=EVERY_S) as show:
            show()
            while reader.status.runs:
                time.sleep(READ_EVERY_S)
                show()
    except KeyboardInterrupt:
        return
