"""What a search may choose from: `search=FIELD=DISTRIBUTION` as plain data, typed by the recipe's field."""

import math
import re
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from itertools import combinations, product
from typing import Any, Literal

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from seg.errors import RequestError, describe_unknown
from seg.recipe import Params, Recipe, Value, apply_params

FIXED = {
    "name": "names the recipe",
    "epochs": "is what every trial may spend; set it for all with `epochs`",
    "monitor": "decides which epoch stands for a trial; set it for all with `monitor`",
    "dataset": "decides which pixels are counted",
    "sequence": "decides which pixels are counted",
    "label_map": "decides which pixels are counted",
    "validation_share": "decides which pixels are counted",
    "test_share": "decides which pixels are counted",
}
"""Fields that all trials must share, or their mIoUs could not be compared."""

KINDS = ("choice", "int", "loguniform", "randint", "uniform")
WORDS: Mapping[Any, Mapping[str, Value]] = {
    types.NoneType: {"none": None},
    bool: {"true": True, "false": False},
}
"""How a command line writes what is no number and no text, in letters of any size."""
EXAMPLE = "optimizer.weight-decay=loguniform(1e-6,1e-2)"
WHOLE_CHECKED = 1000
"""Values of a range that are tried on the recipe one by one; of a longer range, its ends are."""
Axis = FloatDistribution | IntDistribution | CategoricalDistribution
"""What a field is drawn from; a range in steps of 1 has whole numbers alone, those of a float field too."""
Space = dict[str, Axis]
"""What is searched, by the dotted name of the recipe's field."""


def choice(values: Sequence[Value]) -> CategoricalDistribution:
    """One of some values, of any type that a field takes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only Optuna's databases, which we do without, hold no tuples
        return CategoricalDistribution(values)  # type: ignore[arg-type]


def ends(axis: Axis) -> tuple[Value, ...]:
    """The values that bound a range; of a choice all."""
    return axis.choices if isinstance(axis, CategoricalDistribution) else (axis.low, axis.high)


def count_values(axis: Axis) -> float:
    """How many values an axis has."""
    if isinstance(axis, CategoricalDistribution):
        return len(axis.choices)
    return (axis.high - axis.low) / axis.step + 1 if axis.step else math.inf


def holds(axis: Axis, value: Value) -> bool:
    """Whether a trial may have this value."""
    if not isinstance(axis, CategoricalDistribution) and type(value) not in (int, float):
        return False  # which Optuna would convert
    try:
        return axis._contains(axis.to_internal_repr(value))  # type: ignore[arg-type]
    except ValueError:
        return False


def is_inside(space: Space, params: Params) -> bool:
    """Whether every value of a trial is one that the search may draw."""
    return all(holds(axis, params[name]) for name, axis in space.items())


def parse_search(words: Sequence[str]) -> Space:
    """The space that ``search`` options describe, a field named as such or as its option.

    RequestError: an unknown field, a value of another type.
    """
    space: Space = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not equals:
            raise RequestError(f"`search={word}` gives no values; write it like `search='{EXAMPLE}'`")
        hint = _find_hint(name)
        if name in space:
            raise RequestError(f"`search` names {name} twice; give one distribution")
        try:
            space[name] = _parse_axis(text.strip(), hint)
        except ValueError as error:
            raise RequestError(f"`search={name}`: {error}") from None
    return space


def plain_axis(axis: Axis) -> dict[str, Value | list[Value]]:
    """An axis as plain data for run.json."""
    if isinstance(axis, CategoricalDistribution):
        return {"choice": list(axis.choices)}
    return {"low": axis.low, "high": axis.high, "log": axis.log, "whole": axis.step is not None}


def recipe_fields(kind: Any = Recipe, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the type of every field of a recipe."""
    hints = typing.get_type_hints(kind)
    for entry in fields(kind):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from recipe_fields(hint, f"{prefix}{entry.name}.")
        else:
            yield f"{prefix}{entry.name}", hint


def check_size(space: Space, own: Params, trials: int) -> None:
    """RequestError: more trials than different ones; `own` is one of these, also where it lies outside."""
    points = math.prod(map(count_values, space.values())) + (not is_inside(space, own))
    if trials > points:
        raise RequestError(
            f"`trials={trials}`, but the space has {points:.0f} different ones; try `trials={points:.0f}`"
        )


def check_space(space: Space, recipe: Recipe, own: Params) -> list[tuple[str, Recipe]]:
    """Recipes that show whether a space fits, each with the settings in which it differs from the recipe's.

    They have each value, and each pair of two fields' ends; the others stand at `own`, the recipe's point,
    or where that lies outside at their first value. RequestError: one is refused.
    """
    anchor = {name: own[name] if holds(axis, own[name]) else ends(axis)[0] for name, axis in space.items()}
    moved = {name: value for name, value in anchor.items() if value != own[name]}
    found: list[tuple[str, Recipe]] = []
    for point in _points({name: space[name] for name in sorted(space, key=lambda name: name not in moved)}):
        settings = " ".join(f"{name}={_shorten(value)}" for name, value in (moved | point).items())
        with blaming(settings):
            found.append((settings, apply_params(recipe, anchor | point)))
    return found


def _shorten(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


@contextmanager
def blaming(settings: str) -> Iterator[None]:
    """Say of a RequestError in the block which searched settings it is about."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"`search={settings}`: {error}") from None


def _points(space: Space) -> Iterator[Params]:
    for name, axis in space.items():
        for value in _checked_values(axis):
            yield {name: value}
    for (first, one), (second, other) in combinations(space.items(), 2):
        for values in product(ends(one), ends(other)):
            yield dict(zip((first, second), values, strict=True))


def _checked_values(axis: Axis) -> tuple[Value, ...]:
    if isinstance(axis, CategoricalDistribution) or count_values(axis) > WHOLE_CHECKED:
        return ends(axis)
    return tuple(map(type(axis.low), range(int(axis.low), int(axis.high) + 1)))


def _find_hint(name: str) -> Any:
    """The type of a field that may be searched. RequestError: there is none of that name, or it may not."""
    known = dict(recipe_fields())
    if name in FIXED:
        raise RequestError(f"`search={name}`: it {FIXED[name]}, so that it is the same for all trials")
    if name not in known:
        named_so = [other for other in known if other.rpartition(".")[2] == name]
        if named_so:
            raise RequestError(
                f"`search={name}`: unknown recipe field; did you mean {' or '.join(named_so)}?"
            )
        raise RequestError(f"`search` {describe_unknown('recipe field', name, sorted(known))}")
    return known[name]


def _parse_axis(text: str, hint: Any) -> Axis:
    """The axis of "loguniform(1e-4,1e-2)". ValueError: it is none, or does not fit the type."""
    found = re.fullmatch(r"(\w*)\s*\((.*)\)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{text!r} is not like loguniform(1e-4,1e-1), uniform(0,1), int(2,8) or choice(a,b)")
    kind, items = found[1], split_items(found[2])
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, 1)
        question = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"unknown distribution {kind!r}; {question}known: {', '.join(KINDS)}")
    if kind != "choice":
        return _parse_range(kind, items, hint)
    values = tuple(parse_value(item, hint) for item in items)
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{text!r} must name at least one value, and none twice")
    return choice(values)


def _parse_range(kind: str, items: list[str], hint: Any) -> FloatDistribution | IntDistribution:
    numbers = [member for member in _members(hint) if member in (int, float)]
    if not numbers:
        raise ValueError(f"it is {describe_type(hint)}, no number of a range; use choice(a,b)")
    if len(items) != 2:
        raise ValueError(f"{kind} takes two numbers, but {len(items)} are given; write {kind}(LOW,HIGH)")
    whole = int in numbers or kind in ("int", "randint")
    low, high = (parse_value(item, int if whole else float) for item in items)
    if not low < high:
        raise ValueError(f"{kind}({items[0]},{items[1]}) does not rise; write the lower number first")
    log = kind == "loguniform"
    if log and low <= 0:
        raise ValueError(f"loguniform begins at {items[0]}, which has no logarithm; begin above 0")
    if int in numbers:
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log, step=1 if whole else None)


def split_items(text: str) -> list[str]:
    """What commas separate, but for those in brackets: "a,f(b,c)" is "a" and "f(b,c)"."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items] if text.strip() else []


def parse_value(text: str, hint: Any) -> Any:
    """A value of a field's type from text. ValueError: it is none."""
    for member in _members(hint):
        with suppress(ValueError):
            return _parse_as(text, member)
    raise ValueError(f"{text!r} is not {describe_type(hint)}")


def _parse_as(text: str, kind: Any) -> Value:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _parse_tuple(text, arguments)
    if kind is int:
        return int(text)
    if kind is float and math.isfinite(number := float(text)):
        return number
    known = {str(value): value for value in arguments} if origin is Literal else WORDS.get(kind, {})
    if (word := text if origin is Literal else text.lower()) in known:
        return known[word]
    if kind is str and text:
        return text
    raise ValueError


def _parse_tuple(text: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if text[:1] + text[-1:] not in ("()", "[]"):
        raise ValueError
    items = [item for item in split_items(text[1:-1]) if item]
    kinds = arguments[:1] * len(items) if arguments[-1:] == (...,) else arguments
    if len(kinds) != len(items):
        raise ValueError
    return tuple(parse_value(item, kind) for item, kind in zip(items, kinds, strict=True))


def _members(hint: Any) -> list[Any]:
    """The types a value may have; None first, text last, so that "None" is None."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else [hint]
    if typing.get_origin(hint) is typing.Union:
        members = typing.get_args(hint)
    return sorted(members, key=lambda member: (member is str, member is not types.NoneType))


def describe_type(hint: Any) -> str:
    """A field's type in words: "a whole number", "one of adam, adamw, sgd"."""
    return " or ".join(map(_describe, _members(hint)[::-1]))


def _describe(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple and arguments[-1:] == (...,):
        return f"a list in parentheses, each {_describe(arguments[0])}"
    if origin is tuple:
        return f"({', '.join(map(_describe, arguments))})"
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return words.get(kind, "None")
