import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seg.errors import RequestError
from seg.plain_data import from_plain, parse_json, require, require_fields


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int]
    factor: float = 1.5

    def __post_init__(self) -> None:
        if min(self.size) < 1:
            raise RequestError(f"size is {self.size}")


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b", 3]
    inner: Inner | None
    pairs: tuple[tuple[str, int], ...]
    ratios: dict[str, float | None]
    anything: dict[str, Any] = field(default_factory=dict)
    done: bool = False


OUTER = Outer("x", 3, Inner((1, 2)), (("a", 1), ("b", 2)), {"c": None, "d": 0.5}, {"e": [1]}, done=True)


def test_what_was_written_comes_back() -> None:
    plain = json.loads(json.dumps(asdict(OUTER)))
    assert from_plain(Outer, plain) == OUTER
    del plain["anything"], plain["inner"]["factor"]
    assert from_plain(Outer, plain).inner == OUTER.inner


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": 1}, "name is 1, wanted a text"),
        ({"kind": "c"}, "kind is \"c\", wanted 'a' or 'b' or 3"),
        ({"inner": {}}, "inner has no field size"),
        ({"inner": {"size": [1, 2], "odd": 1}}, "inner has the unknown field odd"),
        ({"inner": {"size": [1]}}, "inner.size has 1 items, wanted 2"),
        ({"inner": {"size": [1, True]}}, "inner.size[1] is true, wanted a whole number"),
        ({"inner": {"size": [1, 0]}}, "size is (1, 0)"),
        ({"inner": {"size": [1, 2], "factor": float("nan")}}, "inner.factor is NaN, wanted a number"),
        ({"inner": {"size": [1, 2**63]}}, f"inner.size[1] is {2**63}, wanted a whole number"),
        ({"pairs": "ab"}, 'pairs is "ab", wanted a list'),
        ({"pairs": [["a", 1], ["b", "2"]]}, 'pairs[1][1] is "2", wanted a whole number'),
        ({"ratios": {"c": "x"}}, 'ratios.c is "x", wanted a number or null'),
        ({"ratios": []}, "ratios is a list of 0, wanted an object"),
        ({"name": ["y" * 99]}, "name is a list of 1, wanted a text"),
        ({"kind": "y" * 99}, f"kind is \"{'y' * 59}..., wanted 'a' or 'b' or 3"),
    ],
)
def test_a_field_of_another_kind_is_named(change: dict[str, Any], text: str) -> None:
    plain = json.loads(json.dumps(asdict(OUTER))) | change
    with pytest.raises(ValueError, match=r".") as wrong:
        from_plain(Outer, plain)
    assert str(wrong.value) == text
    with pytest.raises(RequestError) as refused:
        require(Outer, plain, "a.json")
    assert str(refused.value) == f"a.json is damaged: {text}; put it back from a copy"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from([*asdict(OUTER), "odd"]), PLAIN))
def test_nothing_but_a_value_error_comes_of_any_plain_data(change: dict[str, Any]) -> None:
    try:
        found = from_plain(Outer, asdict(OUTER) | {"pairs": []} | change)
    except ValueError:
        return
    assert isinstance(found.name, str)
    assert found.inner is None or isinstance(found.inner, Inner)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 99_999, b"1" * 9999, b'{"a": 1}}'])
def test_what_is_no_json_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(RequestError, match=r"^dir/a\.json is damaged: it is no JSON \(.*\); remove it$"):
        parse_json(content, "dir/a.json", "remove it")


def test_an_object_keeps_other_fields_and_lacks_none() -> None:
    assert require_fields({"a": int}, {"a": 1, "b": "x"}, "a.json") == {"a": 1, "b": "x"}
    for value, text in (
        ([1], "it holds a list of 1, wanted an object"),
        ({}, "it has no field a"),
        ({"a": 1.5}, "a is 1.5, wanted a whole number"),
    ):
        with pytest.raises(RequestError) as refused:
            require_fields({"a": int}, value, "a.json")
        assert str(refused.value) == f"a.json is damaged: {text}; put it back from a copy"
