import time
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seg.train.sinks import EventFile, list_epochs
from seg.train.state import EpochResult
from tests.cluster.journals import results_until


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a folder as TensorBoard itself reads it: step and value."""
    return read_scalars(EventAccumulator(str(folder)))


def read_scalars(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def as_float32(value: float) -> float:
    return float(np.float32(value))


def test_tensorboard_reads_every_column_of_every_epoch(tmp_path: Path) -> None:
    epochs, columns = list_epochs(results_until(6)), {column.name for column in fields(EpochResult)}
    with closing(EventFile(tmp_path)) as file:
        for count in (1, 2, 4, 6):
            file.send(epochs[:count])
            found = read_events(tmp_path)  # at once: nothing waits in a buffer
            assert set(found) == columns - {"epoch"} | {"best_miou"}
            for tag in columns - {"epoch"}:
                wanted = [(one.epoch, as_float32(getattr(one, tag))) for one in results_until(count)]
                assert str(found[tag]) == str(wanted)  # as text: NaN equals NaN
    assert [value for _, value in found["best_miou"]] == [as_float32(best) for best in (0.1, 0.2, *[0.7] * 4)]


def send_all(folder: Path, epochs: int) -> None:
    """What a command that ends after so many epochs leaves."""
    with closing(EventFile(folder)) as file:
        file.send(list_epochs(results_until(epochs)))


def test_a_training_that_goes_on_has_each_epoch_once(tmp_path: Path) -> None:
    send_all(tmp_path, 3)
    (torn,) = tmp_path.iterdir()
    torn.write_bytes(torn.read_bytes()[:-5])  # what a kill in the middle of the third epoch's line leaves
    with closing(EventFile(tmp_path)) as file:
        for count in (2, 5):
            file.send(list_epochs(results_until(count)))
            assert [step for step, _ in read_events(tmp_path)["loss"]] == list(range(1, count + 1))


def test_a_tensorboard_that_is_open_forgets_what_is_written_anew(tmp_path: Path) -> None:
    send_all(tmp_path, 3)
    watching = EventAccumulator(str(tmp_path))
    assert [step for step, _ in read_scalars(watching)["loss"]] == [1, 2, 3]
    for epochs in (3, 4, 6):
        send_all(tmp_path, epochs)
        assert [step for step, _ in read_scalars(watching)["loss"]] == list(range(1, epochs + 1))
    assert len(list(tmp_path.iterdir())) == 2  # the last, and the one before, empty


def test_storage_that_refuses_is_an_error_and_the_next_call_writes_all(tmp_path: Path) -> None:
    file, folder = EventFile(tmp_path / "run"), tmp_path / "run"
    folder.touch()  # where the folder should be
    with pytest.raises(OSError):
        file.send(list_epochs(results_until(1)))
    folder.unlink()
    file.send(list_epochs(results_until(2)))
    moved = folder.rename(tmp_path / "away")
    with pytest.raises(OSError):
        file.send(list_epochs(results_until(3)))
    moved.rename(folder)
    with closing(file):
        file.send(list_epochs(results_until(4)))
    assert [step for step, _ in read_events(folder)["loss"]] == [1, 2, 3, 4]


def test_epochs_are_timed_as_though_they_had_followed_each_other_until_now() -> None:
    before = time.time()
    ended = [epoch.ended_s for epoch in list_epochs(results_until(4))]
    assert np.diff(ended).tolist() == pytest.approx([2, 3, 4], abs=1e-5)  # float64 of 1e9 s has 2e-7
    assert before <= ended[-1] <= time.time()
    assert list_epochs([]) == []
