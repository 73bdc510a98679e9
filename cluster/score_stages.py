"""The stages of a scoring as Ray Data calls them: a block is a row, and a row a parcel.

What is small of a parcel travels as Ray's own objects; its pixels are bytes beside them, which nobody copies
to read them. Neither reading nor finishing imports torch.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.data.extensions import ArrowPythonObjectArray

from seg.score.parcels import (
    Answered,
    Parcel,
    ParcelFinisher,
    ParcelPredictor,
    ParcelReader,
    ParcelScorer,
    Round,
)
from seg.score.work import Work


class Form(NamedTuple):
    """What array bytes are."""

    shape: tuple[int, ...]
    dtype: str


def parcels_table(parcels: Sequence[Parcel]) -> pa.Table:
    """Parcels, a row each."""
    return _table(parcels)


def read_parcels(table: pa.Table) -> list[Parcel]:
    """The parcels of a table."""
    return _rows(table)


def works_table(parcel: str, works: list[Work]) -> pa.Table:
    """The works of one parcel, as a row."""
    arrays = [array for work in works for array in work.arrays()]
    forms = [Form(array.shape, array.dtype.str) for array in arrays]
    light = [work.with_arrays(iter([np.empty(0, one.dtype) for one in work.arrays()])) for work in works]
    return _table([(parcel, light, forms)]).append_column("pixels", _bytes_of(arrays))


def read_works(table: pa.Table) -> Iterator[tuple[str, list[Work]]]:
    """Name and works of each parcel; their arrays are views of the table, and read-only."""
    lists = (
        rows.slice(row, 1).flatten() for rows in table.column("pixels").chunks for row in range(len(rows))
    )
    for (name, light, forms), pixels in zip(_rows(table), lists, strict=True):
        _, ends, data = pixels.buffers()
        first = np.frombuffer(ends, np.int64)[pixels.offset :] if forms else ()
        arrays = iter([_as_array(data, int(at), form) for at, form in zip(first, forms, strict=False)])
        yield name, [work.with_arrays(arrays) for work in light]


def answers_table(answers: list[Answered]) -> pa.Table:
    """What came of a parcel, as a row."""
    return _table([answers])


def read_answers(table: pa.Table) -> list[Answered]:
    """What came of the parcels of a table; what a stage has raised is raised here."""
    return [one for answers in _rows(table) for one in answers]


def telling(table: pa.Table, make: Callable[[pa.Table], Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """What `make` makes of a table; what it raises is the last block, which later stages raise and pass on.

    Ray Data would add a page of its own to what an exception says.
    """
    try:
        yield from make(table)
    except Exception as error:
        yield _table([error]).append_column("pixels", _bytes_of([]))


def _table(rows: Sequence[Any]) -> pa.Table:
    return pa.table({"parcel": ArrowPythonObjectArray.from_objects(rows)})


def _rows(table: pa.Table) -> list[Any]:
    """The objects of a table. What an earlier stage has raised is raised again."""
    rows = table.column("parcel").to_pylist()
    for row in rows:
        if isinstance(row, Exception):
            raise row
    return rows


def _bytes_of(arrays: list[NDArray[Any]]) -> pa.Array:
    """One row of all arrays' bytes; a single array is not copied."""
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    whole = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint8), *parts])
    ends = np.cumsum([0, *(part.size for part in parts)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(whole)]
    each = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(parts), buffers)
    return pa.LargeListArray.from_arrays(pa.array([0, len(parts)], pa.int64()), each)


def _as_array(data: pa.Buffer, at: int, form: Form) -> NDArray[Any]:
    array = np.frombuffer(data, form.dtype, prod(form.shape), at).reshape(form.shape)
    array.flags.writeable = False
    return array


def node_id() -> str:
    """Of the node on which this process is, as Ray names it."""
    return ray.get_runtime_context().get_node_id()


class ParcelStage(Protocol):
    """What Ray Data makes actors of: a class of this kind, called with a block."""

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """Blocks, as they are done."""
        ...


class ReadStage:
    """Parcels to works, on any CPU."""

    def __init__(self, round_: Round) -> None:
        self.stage = ParcelReader(round_, node_id())

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """A block for each parcel, or each share of an image."""
        return telling(table, self._read)

    def _read(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in read_parcels(table):
            for name, works in self.stage.read(parcel):
                yield works_table(name, works)


class PredictStage:
    """Works to predicted ones, on a GPU where there are any."""

    def __init__(self, round_: Round) -> None:
        self.stage = ParcelPredictor(round_, node_id())

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """A block for each parcel."""
        return telling(table, self._predict)

    def _predict(self, table: pa.Table) -> Iterator[pa.Table]:
        for name, works in read_works(table):
            yield works_table(name, self.stage.predict(name, works))


class FinishStage:
    """Predicted works to answers, on any CPU."""

    def __init__(self, round_: Round) -> None:
        self.stage = ParcelFinisher(round_, node_id())

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """A block for each parcel."""
        return telling(table, self._finish)

    def _finish(self, table: pa.Table) -> Iterator[pa.Table]:
        for name, works in read_works(table):
            yield answers_table(self.stage.finish(name, works))


class ScoreStage:
    """Parcels to answers: all stages in one process."""

    def __init__(self, round_: Round) -> None:
        self.stage = ParcelScorer(round_, node_id())

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        """A block for each parcel."""
        return telling(table, self._score)

    def _score(self, table: pa.Table) -> Iterator[pa.Table]:
        for parcel in read_parcels(table):
            yield answers_table(self.stage.score(parcel))


STAGES: dict[str, Callable[[Round], ParcelStage]] = {
    "read": ReadStage,
    "predict": PredictStage,
    "finish": FinishStage,
    "score": ScoreStage,
}


class Aborted(Exception):
    """A dataset is to end."""


class Aborter:
    """Looks at each step of Ray Data's own loop whether that is to end: nothing else stops it from outside.

    Of all contexts that Ray Data hands out it travels by its name, so it is here, where no torch is.
    """

    latest: ClassVar[threading.Event] = threading.Event()
    """Of the dataset that is about to run."""

    def __init__(self) -> None:
        self.aborted = Aborter.latest

    def on_execution_step(self, executor: object) -> None:
        """Called by Ray Data."""
        if self.aborted.is_set():
            raise Aborted

    def before_execution_starts(self, executor: object) -> None:
        """Called by Ray Data."""

    def after_execution_succeeds(self, executor: object) -> None:
        """Called by Ray Data."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Called by Ray Data."""
