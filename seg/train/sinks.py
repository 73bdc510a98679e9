"""A training's epochs as TensorBoard and MLflow take them, and TensorBoard's event file."""

import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from seg.train.state import EpochResult

if TYPE_CHECKING:
    from tensorboardX.record_writer import RecordWriter


@dataclass(frozen=True, slots=True)
class Epoch:
    """A finished epoch as a sink takes it: somewhere that each is sent to once."""

    result: EpochResult
    best_miou: float
    """The highest so far; below 0 before there is any."""
    ended_s: float
    """Seconds since 1970; it stays the same however often the epoch is sent."""

    @property
    def number(self) -> int:
        """From 1."""
        return self.result.epoch

    @property
    def values(self) -> dict[str, float]:
        """The columns of history.csv, some of them maybe NaN, and best_miou once there is one."""
        best = {"best_miou": self.best_miou} if self.best_miou >= 0 else {}
        return {name: float(value) for name, value in asdict(self.result).items()} | best


def list_epochs(history: list[EpochResult]) -> list[Epoch]:
    """The epochs of a journal, timed as though they had followed each other until now."""
    now = time.time()
    later = [result.seconds for result in history[:0:-1]]  # of the last epoch, the one before it, ...
    ended = [now - seconds for seconds in accumulate(later, initial=0.0)][: len(history)][::-1]
    best = list(accumulate((result.miou for result in history), max, initial=-1.0))  # a NaN is never above
    return [Epoch(*values) for values in zip(history, best[1:], ended, strict=True)]


class EventFile:
    """An event file of TensorBoard with a scalar by epoch for each value.

    A training that goes on writes another, from the first epoch, and empties the one before: each epoch is
    there once, whatever was cut off. A TensorBoard that is open learns from its first event to forget them.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: RecordWriter | None = None
        self.sent = 0

    def send(self, epochs: list[Epoch]) -> None:
        """Write the epochs that the file lacks. OSError: storage refuses; the next call writes it anew."""
        from tensorboardX.proto.event_pb2 import Event  # type: ignore[attr-defined]  # made when imported
        from tensorboardX.proto.summary_pb2 import Summary  # type: ignore[attr-defined]

        try:
            writer = self.writer or self._begin()
            Path(writer.path).stat()  # what is written to a file that somebody removed is lost
            for epoch in epochs[self.sent :]:
                values = [(name, value) for name, value in epoch.values.items() if name != "epoch"]
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
                event = Event(step=epoch.number, wall_time=epoch.ended_s, summary=summary)
                writer.write(event.SerializeToString())
            writer.flush()
        except OSError:
            self.close()
            raise
        self.sent = len(epochs)

    def close(self) -> None:
        """Close the file; what is sent later goes into another."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with suppress(OSError):  # of storage that refused before
                writer.close()

    def _begin(self) -> "RecordWriter":
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
        from tensorboardX.record_writer import RecordWriter

        self.folder.mkdir(exist_ok=True)  # without parents: nothing comes below a mount that is gone
        for old in self.folder.glob("events.out.tfevents.*"):
            if old.stat().st_size:
                old.write_bytes(
                    b""
                )  # a TensorBoard that reads it goes on to the next; removed, it would wait
            else:
                old.unlink()
        now = time.time()
        writer = RecordWriter(str(self.folder / f"events.out.tfevents.{now:.6f}.fringe"))
        self.writer, self.sent = writer, 0
        writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        start = SessionLog(status=SessionLog.START)
        writer.write(Event(step=0, session_log=start).SerializeToString())
        return writer
