"""The process that reads a pickle from elsewhere: old_labels.py starts it, and believes nothing that it says.

A pickle is a program. Here it may name what NAMES holds, and what these names mean is done by the functions
of this file: nothing that a pickle names is imported or called, of numpy neither. The process has only
Python's standard library, no file but the pickle on its input, and bounds of memory and time. What comes of
the pickle goes out as lines of JSON, an array of numbers as a line and its bytes, as soon as it is read.
"""

import json
import os
import pickle
import resource
import sys
from collections.abc import Callable
from itertools import count
from math import prod
from typing import BinaryIO

LOWEST_BYTES = 2**30
"""Of address space, beside BYTES_FOR_ONE for each byte of the pickle."""
BYTES_FOR_ONE = 4
SECONDS = 60
"""Of CPU, and one more for each MiB."""

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON holds."""


class Refused(Exception):
    """A pickle that wants more than we do."""


class Name:
    """What a pickle gets for a name: it can be called, and nothing else."""

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        """What the name makes of the arguments. TypeError, ValueError: they do not fit it."""
        return self._make(*arguments)

    def __setstate__(self, state: object) -> None:
        """TypeError: else the state would become its attributes."""
        raise TypeError("a state for a name")


class Dtype:
    """A numpy dtype: a code, as u1, and an order of bytes; which are numbers, the reader decides."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[object, str]) -> None:
        """Numpy's state of a dtype."""
        self.order = state[1]


class Array:
    """An array, or number, of numpy: in its place the reader is told which of those sent it is."""

    def __init__(self) -> None:
        self.place: Plain = None

    def __setstate__(self, state: tuple[object, tuple[int, ...], Dtype, bool, object]) -> None:
        """Numpy's state of an array."""
        _, shape, dtype, by_columns, data = state
        if not (type(shape) is tuple and all(type(side) is int and side >= 0 for side in shape)):
            raise ValueError("an array whose shape is not counts")
        if dtype.code.startswith("O"):
            if len(shape) > 1 or not isinstance(data, list) or len(data) != prod(shape):
                raise ValueError("an array of objects that is neither one nor a list")
            self.place = to_plain(data if shape else data[0])
        else:
            self.place = send_array(shape, dtype, bool(by_columns), data)


_numbers = count()


def send_array(shape: tuple[int, ...] | None, dtype: Dtype, by_columns: bool, data: object) -> Plain:
    """Send an array's bytes on, and return what stands for it; shape: None of a single number."""
    content = data.encode("latin1") if isinstance(data, str) else data  # str: from Python 2
    if not (isinstance(content, bytes | bytearray) and isinstance(dtype, Dtype)):
        raise TypeError("an array that is not bytes of a dtype")
    sides = None if shape is None else list(shape)
    about = {"code": dtype.code, "order": dtype.order, "by_columns": by_columns, "shape": sides}
    send(json.dumps({"array": {**about, "bytes": len(content)}}), content)
    return {"array": next(_numbers)}


def send(line: str, content: bytes | bytearray = b"") -> None:
    """Write a line of JSON, and an array's bytes behind it."""
    sys.stdout.buffer.write(line.encode() + b"\n")
    sys.stdout.buffer.write(content)


def _reconstruct(kind: object, *_: object) -> Array:
    if kind is not NAMES["numpy.ndarray"]:
        raise TypeError("an array that is no ndarray")
    return Array()


def _from_buffer(data: object, dtype: Dtype, shape: tuple[int, ...], order: str) -> Array:
    array = Array()
    array.__setstate__((None, shape, dtype, order == "F", data))
    return array


def _scalar(dtype: Dtype, data: object) -> Array:
    number = Array()
    number.place = send_array(None, dtype, False, data)
    return number


def _encode(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise TypeError("another codec than latin1")
    return text.encode("latin1")


def _refuse_call(*_: object) -> None:
    raise TypeError("a call of ndarray")


NAMES = {
    "numpy.dtype": Name(Dtype),
    "numpy.ndarray": Name(_refuse_call),
    "numpy.core.multiarray._reconstruct": Name(_reconstruct),
    "numpy._core.multiarray._reconstruct": Name(_reconstruct),
    "numpy.core.numeric._frombuffer": Name(_from_buffer),
    "numpy._core.numeric._frombuffer": Name(_from_buffer),
    "numpy.core.multiarray.scalar": Name(_scalar),
    "numpy._core.multiarray.scalar": Name(_scalar),
    "_codecs.encode": Name(_encode),  # of Latin-1: bytes, in protocols 0 to 2
    "__builtin__.bytes": Name(lambda: b""),  # none of them, in the same
    "collections.OrderedDict": Name(dict),
}
"""All that a pickle may name; numpy.core is numpy._core before version 2."""


class Unpickler(pickle.Unpickler):
    """Python's own, but for names."""

    def find_class(self, module_name: str, global_name: str, /) -> Name:
        """What stands for a name. Refused: it is none of NAMES."""
        name = f"{module_name}.{global_name}"
        if name not in NAMES:
            shown = name[:200] if name.isprintable() else repr(name[:200])  # it may hold codes for terminals
            raise Refused(f"wants {shown}, which is not among the few names that plain values need")
        return NAMES[name]


def to_plain(value: object) -> Plain:
    """A value as JSON: a tuple as {"tuple": [...]}, a dictionary as {"dict": {...}}, an array as its place.

    TypeError: it is something else, or a dictionary's keys are.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [to_plain(item) for item in value]}
    if isinstance(value, Array) and value.place is not None:
        return value.place
    if not isinstance(value, dict):
        raise TypeError(f"a value of type {type(value).__name__}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a dictionary with {type(key).__name__} for keys, not strings")
    return {"dict": {key: to_plain(item) for key, item in value.items()}}


def limit(size: int) -> None:
    """Bound this process: nothing is opened, written to a file or started any more."""
    limits = {
        resource.RLIMIT_AS: LOWEST_BYTES + BYTES_FOR_ONE * size,
        resource.RLIMIT_CPU: seconds_for(size),
        **dict.fromkeys((resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE), 0),
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, most))


def seconds_for(size: int) -> int:
    """How long reading a pickle of so many bytes may take."""
    return SECONDS + size // 2**20


def read(file: BinaryIO) -> str:
    """The last line about a pickle: its `value`, what it was `refused` for, or how it is `damaged`."""
    try:
        return json.dumps({"value": to_plain(Unpickler(file, encoding="latin1").load())})
    except Refused as error:
        return json.dumps({"refused": str(error)})
    except Exception as error:  # bytes that mean nothing can raise anything
        return json.dumps({"damaged": " ".join(f"{type(error).__name__}: {error}".split())[:200]})


def main() -> None:
    """Read the pickle on standard input; Refused, and what else goes wrong, is an answer."""
    limit(os.fstat(sys.stdin.fileno()).st_size)
    send(read(sys.stdin.buffer))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
