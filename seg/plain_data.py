"""Dataclasses to the plain data of a JSON file and back: what was damaged or edited is refused by name."""

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from math import isfinite, nan
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seg.errors import RequestError

FROM_A_COPY = "put it back from a copy"
LONGEST_SHOWN = 60
"""Letters of a wrong value that are repeated."""
LARGEST = 2**63

Kind = TypeVar("Kind")
Plain = None | bool | int | float | str | Sequence["Plain"] | Mapping[str, "Plain"]
"""What is written as JSON, or was read."""
Measured = Annotated[float, "maybe NaN"]
"""A number that is NaN where there was nothing to measure; JSON has it as NaN or as null."""


def parse_json(content: bytes | str, where: str, mend: str = FROM_A_COPY) -> Any:
    """The plain data of a JSON file. RequestError, naming `where`: it is none; mend: what to do then."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        why = str(error).partition("\n")[0]
        raise RequestError(f"{where} is damaged: it is no JSON ({why}); {mend}") from None


def to_plain(value: Any) -> Any:
    """A dataclass, or plain data, as it comes back from a JSON file: lists for tuples, null for NaN."""
    return json.loads(json.dumps(without_nan(asdict(value) if is_dataclass(value) else value)))  # type: ignore[arg-type]


def without_nan(value: Any) -> Any:
    """The same plain data with None where a float is NaN or infinite, since JSON has neither."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def require(kind: type[Kind], value: Any, where: str, mend: str = FROM_A_COPY) -> Kind:
    """What `from_plain` gives. RequestError, naming `where` and the field: the value does not fit."""
    try:
        return from_plain(kind, value)
    except ValueError as error:
        raise RequestError(f"{where} is damaged: {error}; {mend}") from None


def require_part(kind: type[Kind], value: Any, where: str, mend: str = FROM_A_COPY) -> Kind:
    """A dataclass of some of a JSON object's fields, whatever others it has; errors as of `require`."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]  # it is a dataclass
    part = {name: item for name, item in value.items() if name in names} if isinstance(value, dict) else value
    return require(kind, part, where, mend)


def require_fields(
    kinds: Mapping[str, Any], value: Any, where: str, mend: str = FROM_A_COPY
) -> dict[str, Any]:
    """A JSON object, as it is, with at least these fields, each of its type; errors as of `require`."""
    try:
        if not isinstance(value, dict):
            raise ValueError(f"it holds {_show(value)}, wanted an object")
        for name, kind in kinds.items():
            if name not in value:
                raise ValueError(f"it has no field {name}")
            from_plain(kind, value[name], name)
    except ValueError as error:
        raise RequestError(f"{where} is damaged: {error}; {mend}") from None
    return value


def from_plain(kind: Any, value: Any, where: str = "") -> Any:
    """A value from JSON as a `kind`: a type that a dataclass's field may have, or a dataclass.

    Lists become tuples where these are wanted; all else stays what it is, whole numbers for floats too.
    ValueError, naming the field `where`: it does not fit, or a number that is not Measured is not finite.
    """
    if is_dataclass(kind):
        return _build(kind, value, where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(kind, value, where)
    if origin in (Union, types.UnionType):
        return _first_fitting(parts, value, where, kind)
    if origin in (tuple, list) and isinstance(value, list):
        return _items(origin, parts, value, where)
    if origin is dict and isinstance(value, dict):
        return {name: from_plain(parts[1], item, f"{where}.{name}") for name, item in value.items()}
    if kind is Any or (origin is Literal and _is_one_of(value, parts)) or _is_a(kind, value):
        return value
    raise ValueError(f"{where or 'it'} is {_show(value)}, wanted {_describe(kind)}")


def _annotated(kind: Any, value: Any, where: str) -> Any:
    if kind == Measured and (value is None or isinstance(value, float)):
        return nan if value is None else value
    return from_plain(get_args(kind)[0], value, where)


def _build(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where or 'it'} is {_show(value)}, wanted an object")
    hints, known = _hints(kind), {entry.name: entry for entry in fields(kind)}
    missing = [
        name
        for name, entry in known.items()
        if name not in value and entry.default is MISSING and entry.default_factory is MISSING
    ]
    if odd := missing or [name for name in value if name not in known]:
        what = "no field" if missing else "the unknown field"
        raise ValueError(f"{where or 'it'} has {what} {_shorten(odd[0])}")
    dot = f"{where}." if where else ""
    found = {name: from_plain(hints[name], item, f"{dot}{name}") for name, item in value.items()}
    try:
        return kind(**found)
    except RequestError as error:
        raise ValueError(str(error)) from None


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _first_fitting(kinds: tuple[Any, ...], value: Any, where: str, union: Any) -> Any:
    """The value as the first of the types that it fits; what is wrong, in the only one that may be meant."""
    for kind in kinds:
        try:
            return from_plain(kind, value, where)
        except ValueError as error:
            if len(kinds) == 2 and type(None) in kinds and is_dataclass(kind) and value is not None:
                raise error
    raise ValueError(f"{where or 'it'} is {_show(value)}, wanted {_describe(union)}")


def _items(kind: Any, parts: tuple[Any, ...], value: list[Any], where: str) -> Any:
    if kind is tuple and parts[1:] != (Ellipsis,) and len(value) != len(parts):
        raise ValueError(f"{where} has {len(value)} items, wanted {len(parts)}")
    of = parts if kind is tuple and parts[1:] != (Ellipsis,) else (parts[0],) * len(value)
    return kind(
        from_plain(one, item, f"{where}[{k}]") for k, (one, item) in enumerate(zip(of, value, strict=True))
    )


def _is_one_of(value: Any, choices: tuple[Any, ...]) -> bool:
    return any(type(value) is type(choice) and value == choice for choice in choices)


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a plain value is of a plain type; a truth value is no number, and numbers have bounds."""
    if kind in (int, float) and type(value) in (int, kind):
        return isfinite(value) if isinstance(value, float) else abs(value) < LARGEST
    if kind in (None, type(None)):
        return value is None
    return kind not in (int, float) and isinstance(kind, type) and isinstance(value, kind)


def _describe(kind: Any) -> str:
    parts = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_describe, parts))
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(kind) in (tuple, list):
        return "a list"
    names = {
        int: "a whole number",
        float: "a number",
        str: "a text",
        bool: "true or false",
        type(None): "null",
    }
    return names.get(kind, "an object")


def _show(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"a{' list' if isinstance(value, list) else 'n object'} of {len(value)}"
    return _shorten(json.dumps(value))


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
