"""Where a training's epochs are sent while it runs; one such place is TensorBoard's event file."""

import os
import struct
import time
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Epoch:
    """A finished epoch as sinks take it."""

    number: int
    """From 1."""
    ended_s: float
    """Seconds since 1970; it stays the same however often the epoch is sent."""
    values: dict[str, float]
    """The columns of history.csv that have a value, maybe NaN, and best_miou, the highest so far."""


class Sink(Protocol):
    """Somewhere that epochs are sent to, each once."""

    name: str

    def send(self, epochs: list[Epoch]) -> None:
        """Send what is not there yet of all epochs so far. OSError: it cannot now, and may later."""
        ...


def list_epochs(rows: list[dict[str, Any]]) -> list[Epoch]:
    """The epochs of a journal's rows, timed as though they had followed each other until now."""
    now = time.time()
    later = [float(row["seconds"] or 0) for row in rows[:0:-1]]  # of the last epoch, the one before it, ...
    ended = [now - seconds for seconds in accumulate(later, initial=0.0)][: len(rows)][::-1]
    epochs, best = [], float("-inf")
    for row, ended_s in zip(rows, ended, strict=True):
        values = {name: float(value) for name, value in row.items() if value is not None}
        best = max(best, values.get("miou", best))  # a NaN is never above
        epochs.append(Epoch(row["epoch"], ended_s, values | ({"best_miou": best} if best >= 0 else {})))
    return epochs


class EventFile:
    """An event file of TensorBoard with a scalar by epoch for each value.

    A training that goes on writes another, from the first epoch, and empties the one before: each epoch is
    there once, whatever was cut off. A TensorBoard that is open learns from its first event to forget them.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: Path | None = None
        self.sent = 0

    def send(self, epochs: list[Epoch]) -> None:
        """Write the epochs that the file lacks. OSError: storage refuses; the next call writes it anew."""
        file, self.file = self.file or self._begin(), None  # kept only if all goes well
        with file.open("r+b") as stream:  # not "ab": a file that somebody removed is an error
            stream.seek(0, os.SEEK_END)
            stream.write(b"".join(_record(_scalars(epoch)) for epoch in epochs[self.sent :]))
        self.file, self.sent = file, len(epochs)

    def _begin(self) -> Path:
        from tensorboardX.proto import event_pb2

        self.folder.mkdir(exist_ok=True)  # without parents: nothing comes below a mount that is gone
        for old in self.folder.glob("events.out.tfevents.*"):
            if old.stat().st_size:
                old.write_bytes(
                    b""
                )  # a TensorBoard that reads it goes on to the next; removed, it would wait
            else:
                old.unlink()
        file, self.sent = self.folder / f"events.out.tfevents.{time.time():.6f}.fringe", 0
        messages = _untyped(event_pb2)
        version = messages.Event(wall_time=time.time(), file_version="brain.Event:2")
        session = messages.SessionLog(status=messages.SessionLog.START)
        file.write_bytes(_record(version) + _record(messages.Event(step=0, session_log=session)))
        return file


def _record(message: Any) -> bytes:
    """A message as a TFRecord: its length, the length's checksum, the message, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    content = message.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (length, content))


def _scalars(epoch: Epoch) -> Any:
    from tensorboardX.proto import event_pb2, summary_pb2

    summary = _untyped(summary_pb2).Summary(
        value=[
            {"tag": name, "simple_value": value} for name, value in epoch.values.items() if name != "epoch"
        ]
    )
    return _untyped(event_pb2).Event(step=epoch.number, wall_time=epoch.ended_s, summary=summary)


def _untyped(generated: Any) -> Any:
    """A module of protobuf, whose classes are made when it is imported."""
    return generated
