"""Pickles from elsewhere, read without running them: plain values and arrays of numbers, nothing else.

A pickle is a program. This is a machine for the part of it that label files need: it has no instruction that
calls what the file names. A name is looked up in MEANINGS and refused where it is not there; what the names
mean is done here, never by numpy's own restoring functions, which trust their arguments.
"""

import pickletools
import re
import struct
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from seg.errors import RequestError


class Meaning(Enum):
    """What the names that we know stand for."""

    DTYPE = "numpy.dtype"
    NDARRAY = "numpy.ndarray"
    ARRAY = "_reconstruct"
    BUFFER = "_frombuffer"
    SCALAR = "scalar"
    ENCODE = "_codecs.encode"
    NO_BYTES = "bytes"
    ORDERED = "collections.OrderedDict"


MEANINGS = {
    "numpy.dtype": Meaning.DTYPE,
    "numpy.ndarray": Meaning.NDARRAY,
    "numpy.core.multiarray._reconstruct": Meaning.ARRAY,
    "numpy._core.multiarray._reconstruct": Meaning.ARRAY,
    "numpy.core.numeric._frombuffer": Meaning.BUFFER,
    "numpy._core.numeric._frombuffer": Meaning.BUFFER,
    "numpy.core.multiarray.scalar": Meaning.SCALAR,
    "numpy._core.multiarray.scalar": Meaning.SCALAR,
    "_codecs.encode": Meaning.ENCODE,  # of Latin-1: bytes, in protocols 0 to 2
    "__builtin__.bytes": Meaning.NO_BYTES,  # none of them, in the same
    "collections.OrderedDict": Meaning.ORDERED,
}
"""All that a pickle may name; numpy.core is numpy._core before version 2."""

DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError),
    *(EOFError, struct.error, tokenize.TokenError),
)
"""What reading bytes that mean nothing can raise; UnicodeError is a ValueError."""


@dataclass(slots=True)
class Dtype:
    """A numpy dtype of a pickle: plain numbers or, where `code` begins with O, objects."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        """The real one. ValueError: another kind than boolean, integer or float."""
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", self.code) or self.order not in ("<", ">", "=", "|"):
            raise ValueError(f"an array of dtype {self.code!r}, not of numbers")
        return np.dtype(self.code).newbyteorder(self.order)


@dataclass(slots=True, eq=False)
class Array:
    """An array of a pickle: `value` is what `on_array` made of it; of objects the list, or the only one."""

    value: Any = None


@dataclass(slots=True, eq=False)
class Blob:
    """Bytes of a pickle, until an array is made of them."""

    data: bytes

    def take(self) -> bytes:
        """The bytes. Many are given up: the memo keeps this object, and all arrays at once are the file."""
        data = self.data
        if len(data) > SHARED_BYTES:
            self.data = b""
        return data


SHARED_BYTES = 1024
"""A pickle may refer to so few bytes twice, as Python has one object for all b"\\1"."""

OnArray = Callable[[NDArray[Any]], Any]
"""Makes a value of each array of numbers as it is read; the array itself is not kept."""


def load_pickled(path: Path, on_array: OnArray) -> Any:
    """The value in a pickle, or in a .npy file of one object: dict, list, tuple, str, number, Array.

    Keys of a dict are strings. RequestError: a name that is not in MEANINGS, named, with nothing run; another
    instruction than plain values need; a file that is cut short or no pickle.
    """
    try:
        with path.open("rb") as file:
            if _is_npy(file):
                _skip_npy_header(file)
            return _Machine(on_array).run(file)
    except Refused as error:
        raise RequestError(f"{path} {error}; nothing in it was run") from None
    except DAMAGE as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise RequestError(f"{path} is no pickle of plain values and arrays, or damaged: {what}") from None


class Refused(Exception):
    """A pickle that wants more than we do."""


def _is_npy(file: BinaryIO) -> bool:
    magic = file.read(6)
    file.seek(0)
    return magic == b"\x93NUMPY"


def _skip_npy_header(file: BinaryIO) -> None:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if shape != () or dtype != np.dtype(object):
        raise Refused(f"holds an array of {dtype} {shape}, not one dictionary")


NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
STRINGS = (
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Machine:
    """Runs the instructions of one pickle (CPython's Lib/pickletools.py documents them) on a stack."""

    def __init__(self, on_array: OnArray) -> None:
        self.on_array = on_array
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks under each mark."""
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        """The value that the pickle in `file` ends with."""
        for opcode, argument, _ in pickletools.genops(file):
            self._step(opcode.name, argument)
        (value,) = self.stack
        return value.value if isinstance(value, Array) else value

    def _step(self, name: str, argument: Any) -> None:
        if name in NUMBERS or name in STRINGS:
            self.stack.append(argument)
        elif name in BYTES:
            self.stack.append(Blob(argument))
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"has the instruction {name}, which plain values do not need")

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _mark(self, _: object) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _put(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def _push_list(self, _: object) -> None:
        self.stack.append([])

    def _push_dict(self, _: object) -> None:
        self.stack.append({})

    def _take_tuple(self, length: int) -> None:
        items = self.stack[len(self.stack) - length :]
        del self.stack[len(self.stack) - length :]
        self.stack.append(tuple(items))

    def _mark_to(self, kind: type[list[Any]] | type[tuple[Any, ...]]) -> None:
        items = self._pop_mark()
        self.stack.append(kind(items))

    def _mark_to_dict(self, _: object) -> None:
        items = self._pop_mark()
        self.stack.append({})
        self._set(items)

    def _append(self, _: object) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: object) -> None:
        self._extend(self._pop_mark())

    def _set_item(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set_items(self, _: object) -> None:
        self._set(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("items for what is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):  # a tuple of a million tuples in each other would overflow hash()
                raise TypeError(f"a dictionary with {type(key).__name__} for keys, not strings")
            self.stack[-1][key] = value

    def _look_up(self, argument: str) -> None:
        """GLOBAL and INST: 'module name'."""
        self._push_meaning(argument.replace(" ", ".", 1))

    def _look_up_stacked(self, _: object) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no string")
        self._push_meaning(f"{module}.{name}")

    def _push_meaning(self, name: str) -> None:
        if name not in MEANINGS:
            shown = name[:200] if name.isprintable() else repr(name[:200])  # it may hold codes for terminals
            raise Refused(f"wants {shown}, which is not among the few names that plain values need")
        self.stack.append(MEANINGS[name])

    def _reduce(self, _: object) -> None:
        arguments, meaning = self.stack.pop(), self.stack.pop()
        if not (isinstance(meaning, Meaning) and isinstance(arguments, tuple)):
            raise TypeError("a call of what is no name")
        self.stack.append(self._restore(meaning, arguments))

    def _restore(self, meaning: Meaning, arguments: tuple[Any, ...]) -> Any:
        match meaning, arguments:
            case Meaning.DTYPE, (str(code), *_):
                return Dtype(code)
            case Meaning.ARRAY, (Meaning.NDARRAY, *_):
                return Array()
            case Meaning.BUFFER, (data, Dtype() as dtype, tuple(shape), order):
                return Array(self._read_array(shape, dtype, order == "F", data))
            case Meaning.SCALAR, (Dtype() as dtype, data):
                return _numbers((), dtype, by_columns=False, data=data).item()
            case Meaning.ENCODE, (str(text), "latin1"):
                return Blob(text.encode("latin1"))
            case ((Meaning.NO_BYTES | Meaning.ORDERED), ()):
                return Blob(b"") if meaning is Meaning.NO_BYTES else {}
        raise TypeError(f"arguments that do not fit {meaning.value}")

    def _build(self, _: object) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        match target, state:
            case Dtype(), (_, str(order), *_):
                target.order = order
            case Array(), (_, tuple(shape), Dtype() as dtype, by_columns, data):
                target.value = self._read_array(shape, dtype, bool(by_columns), data)
            case _:
                raise TypeError(f"a state that does not fit {type(target).__name__}")

    def _read_array(self, shape: tuple[Any, ...], dtype: Dtype, by_columns: bool, data: Any) -> Any:
        if not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("an array whose shape is not counts")
        if dtype.code.startswith("O"):
            if len(shape) > 1 or not isinstance(data, list) or len(data) != prod(shape):
                raise ValueError("an array of objects that is neither one nor a list")
            return data if shape else data[0]
        return self.on_array(_numbers(shape, dtype, by_columns=by_columns, data=data))


def _numbers(shape: tuple[int, ...], dtype: Dtype, *, by_columns: bool, data: Any) -> NDArray[Any]:
    """The array whose bytes are `data`. ValueError: they are too few or too many."""
    content = data.encode("latin1") if isinstance(data, str) else data.take()  # str: from Python 2
    real = dtype.numpy()
    if len(content) != prod(shape) * real.itemsize:
        raise ValueError(f"an array of {shape} with {len(content)} bytes")
    return np.ndarray(shape, real, content, order="F" if by_columns else "C")


STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "EMPTY_LIST": _Machine._push_list,
    "EMPTY_DICT": _Machine._push_dict,
    "TUPLE1": lambda machine, _: machine._take_tuple(1),
    "TUPLE2": lambda machine, _: machine._take_tuple(2),
    "TUPLE3": lambda machine, _: machine._take_tuple(3),
    "TUPLE": lambda machine, _: machine._mark_to(tuple),
    "LIST": lambda machine, _: machine._mark_to(list),
    "DICT": _Machine._mark_to_dict,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._look_up,
    "INST": _Machine._look_up,
    "STACK_GLOBAL": _Machine._look_up_stacked,
    "REDUCE": _Machine._reduce,
    "BUILD": _Machine._build,
}
