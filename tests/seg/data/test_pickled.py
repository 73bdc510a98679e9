import builtins
import collections
import io
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from seg.data import pickled
from seg.data.old_labels import DAMAGE, load_pickled, read_answers
from seg.data.pickled import NAMES
from seg.errors import RequestError

RENAMED = (b"numpy._core", b"numpy.core")


def load(tmp_path: Path, data: bytes) -> Any:
    file = tmp_path / "old.pkl"
    file.write_bytes(data)
    return load_pickled(file, lambda array: array)


def save_npy(value: Any) -> bytes:
    file = io.BytesIO()
    array = np.empty((), object)
    array[()] = value
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


BOXES = {
    "a b.bmp": [(1, 2, 3, 4), (0, 0, 0, 0)],
    "ü.bmp": ([(1.5, 2, 300_000, 2**70)], 17),
    "none.bmp": [],
    "ordered": collections.OrderedDict(x=None, y=True),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_from_every_protocol(tmp_path: Path, protocol: int) -> None:
    value = BOXES | {"many": list(range(3000)), "names": {f"n{k}": str(k) for k in range(2500)}}
    assert load(tmp_path, pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("renamed", [False, True], ids=["numpy 2", "numpy 1"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_numpy_numbers_come_back_from_every_protocol(
    tmp_path: Path, protocol: int, renamed: bool
) -> None:
    random = np.random.default_rng(0)
    value = {
        "mask": random.integers(0, 2, (5, 7, 4), dtype=np.uint8),
        "again": random.integers(0, 2, (5, 7, 4), dtype=np.uint8),
        "by columns": np.asfortranarray(random.integers(0, 99, (3, 4), dtype=np.int32)),
        "big-endian": random.integers(0, 99, (2, 2)).astype(">i8"),
        "float": random.normal(size=(40, 40)).astype(np.float32),
        "bool": np.array([True, False]),
        "empty": np.zeros((0, 4), np.int32),
        "numbers": (np.int64(-3), np.float32(0.5), np.uint8(3), np.uint8(3), np.True_),
    }
    data = pickle.dumps(value, protocol)
    if renamed and protocol < 4:  # later ones say how long a name is
        data = data.replace(*RENAMED)
    elif renamed:
        data = data.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
        data = data.replace(b"\x8c\x13numpy._core.numeric", b"\x8c\x12numpy.core.numeric")
        data = data[:2] + data[11:] if data[2:3] == pickle.FRAME else data
    found = load(tmp_path, data)
    assert found.pop("numbers") == value.pop("numbers")
    for name, array in value.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype, name


def test_a_dictionary_in_a_npy_file_comes_back(tmp_path: Path) -> None:
    masks = {f"{k}.jpg": np.full((3, 2, 4), k, np.uint8) for k in range(3)}
    found = load(tmp_path, save_npy(masks))
    assert list(found) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)


def test_a_pickle_of_python_2_comes_back(tmp_path: Path) -> None:
    data = b"(dp0\nS'a.bmp'\np1\n(lp2\n(I1\nI2\nL3L\nF4.5\ntp3\nas."
    assert load(tmp_path, data) == {"a.bmp": [(1, 2, 3, 4.5)]}


def test_arrays_are_reduced_as_they_come_in_and_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "old.npy"
    file.write_bytes(save_npy({str(k): np.full(2**20, k, np.uint8) for k in range(30)}))
    tracemalloc.start()
    try:
        found = load_pickled(file, lambda array: int(array[0]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(found.values()) == list(range(30))
    assert peak < 4 * 2**20  # of 30 MiB


# What a hostile file might hold. Each would leave a file behind, had it been run.


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Custom:
    """Pickles as an object of a class that is not ours."""


def write_hostile(touch: str) -> dict[str, tuple[Any, str]]:
    """By kind: a value to pickle, or the bytes, and the name that its refusal names."""
    inner = pickle.dumps(Calls(os.system, touch))
    multiarray = np._core.multiarray
    return {
        "os.system": (Calls(os.system, touch), "posix.system"),
        "eval": (Calls(eval, f"__import__('os').system({touch!r})"), r"\.eval"),
        "exec": (Calls(exec, f"__import__('os').system({touch!r})"), r"\.exec"),
        "import": (Calls(builtins.__import__, "os"), r"\.__import__"),
        "getattr": (Calls(getattr, "", "join"), r"\.getattr"),
        "subprocess": (Calls(subprocess.check_call, ["sh", "-c", touch]), r"\.check_call"),
        "in a dictionary": ({"a.bmp": [Calls(os.system, touch)]}, "posix.system"),
        "in an array of objects": (np.array([Calls(os.system, touch)], object), "posix.system"),
        "a nested pickle": (Calls(pickle.loads, inner), r"ickle\.loads"),
        "numpy's loader": (Calls(np.load, "x.npy", None, True), "numpy.load"),
        "numpy's runstring": (b"cnumpy.testing._private.utils\nrunstring\n.", "_private.utils.runstring"),
        "a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.", "numpy.os.system"),
        "codes for a terminal": (b"\x80\x04\x8c\x01a\x8c\x05\x1b[2Jb\x93.", r"'a\.\\x1b\[2Jb'"),
        "an old class": (b"(S'" + touch.encode() + b"'\nios\nsystem\n.", "os.system"),
        "an object": (Custom(), "Custom|copy_reg._reconstructor"),
        "a function": (threading.Thread, "threading.Thread"),
        "a numpy function": (multiarray.fromstring, "fromstring"),
    }  # fmt: skip


def write_all(value: Any) -> list[bytes]:
    """Every pickle of a value, unless it is one."""
    if isinstance(value, bytes):
        return [value]
    return [pickle.dumps(value, protocol) for protocol in range(6)] + [save_npy([value])]


def test_what_a_hostile_pickle_names_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for kind, (value, name) in write_hostile(f"touch {ran}").items():
        for data in write_all(value):
            with pytest.raises(RequestError, match=f"old.pkl wants .*({name}),.*nothing in it was run"):
                load(tmp_path, data)
            assert not ran.exists(), kind


def test_the_hostile_pickles_would_have_run(tmp_path: Path) -> None:
    """Or the test above would prove nothing."""
    ran = tmp_path / "ran"
    value, _ = write_hostile(f"touch {ran}")["in a dictionary"]
    pickle.loads(pickle.dumps(value))  # noqa: S301 - this is the danger
    assert ran.exists()


OBJECT = b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR"


@pytest.mark.parametrize("code", ["O", "O8", "V8", "S4", "U4", "M8", "u3", "", "u1,O", "|O", "i8\n"])
def test_a_numpy_number_of_another_kind_is_refused(tmp_path: Path, code: str) -> None:
    """numpy's own scalar() takes a pickle, or any object, for the value of an object dtype."""
    inner = pickle.dumps(Calls(os.system, f"touch {tmp_path / 'ran'}"))
    for content in (inner, b"\0" * 8):
        data = b"\x80\x04cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n("
        data += b"\x8c" + bytes([len(code)]) + code.encode() + b"tR"
        data += b"B" + struct.pack("<I", len(content)) + content + b"tR."
        with pytest.raises(RequestError, match="is no pickle of plain values and arrays, or damaged"):
            load(tmp_path, data)
    assert not (tmp_path / "ran").exists()


BYTE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR"
STATE = b"(K\x01(K\x02t" + BYTE + b"\x89B%stb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"


@pytest.mark.parametrize(
    "then",
    [
        pytest.param(ARRAY + STATE % (struct.pack("<I", 1) + b"x"), id="too few bytes"),
        pytest.param(ARRAY + STATE % (struct.pack("<I", 3) + b"xyz"), id="too many bytes"),
        pytest.param(ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + BYTE + b"\x89C\x00tb", id="-1 long"),
        pytest.param(ARRAY + b"(K\x01(K\x02t" + OBJECT + b"\x89C\x02xxtb", id="bytes for objects"),
        pytest.param(ARRAY + b"}X\x01\x00\x00\x00aK\x01sb", id="attributes of an array"),
        pytest.param(ARRAY.replace(b"ndarray", b"dtype"), id="an array of dtypes"),
        pytest.param(b"cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb", id="attributes of a name"),
        pytest.param(b"cnumpy\nndarray\n(K\x09tR", id="a call of ndarray"),
        pytest.param(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00ziptR", id="another codec"),
        pytest.param(b"K\x01K\x02tR", id="a call of a number"),
        pytest.param(b"X\x01\x00\x00\x00a(K\x01tR", id="a call of a string"),
        pytest.param(b"}K\x01K\x02s", id="keys that are numbers"),
        pytest.param(b"})" + b"\x85" * 300_000 + b"K\x01s", id="a key that would overflow hash()"),
        pytest.param(b"K\x01K\x02a", id="an item for a number"),
        pytest.param(b"]K\x01K\x02s", id="a key for a list"),
        pytest.param(b"h\x07", id="a memory that is not there"),
        pytest.param(b"", id="no value"),
        pytest.param(b"t", id="no mark"),
        pytest.param(b"\x8e" + struct.pack("<Q", 2**62) + b"x", id="2^62 bytes announced"),
    ],
)  # fmt: skip
def test_allowed_names_do_not_lend_themselves_to_anything_else(tmp_path: Path, then: bytes) -> None:
    with pytest.raises(RequestError, match="is no pickle of plain values and arrays, or damaged"):
        load(tmp_path, b"\x80\x04" + then + b".")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x02cnumpy\nndarray\n)\x81.", id="NEWOBJ"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n)}\x92.", id="NEWOBJ_EX"),
        pytest.param(b"\x80\x02}\x82\x01.", id="EXT1"),
        pytest.param(b"Pname\n.", id="PERSID"),
        pytest.param(b"\x80\x02(K\x01o.", id="OBJ"),
        pytest.param(b"\x80\x04\x8f.", id="EMPTY_SET"),
        pytest.param(b"\x80\x05\x97.", id="NEXT_BUFFER"),
        pytest.param(b"\x80\x05\x96" + struct.pack("<Q", 1) + b"x.", id="BYTEARRAY8"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n.", id="a name alone"),
        pytest.param(b"\x80\x02" + BYTE + b".", id="a dtype alone"),
        pytest.param(b"\x80\x02cnumpy\ndtype\n(N}X\x05\x00\x00\x00_makeK\x01stbN.", id="slots of a name"),
        pytest.param(b"\x80\x02]\x94h\x00a.", id="a list in itself"),
    ],
)  # fmt: skip
def test_what_makes_no_plain_value_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(RequestError, match="is no pickle of plain values and arrays, or damaged"):
        load(tmp_path, data)


def test_a_place_in_the_memory_has_a_bound(tmp_path: Path) -> None:
    """Python makes room for so many: 64 GB."""
    with pytest.raises(RequestError, match=r"or damaged: .*MemoryError"):
        load(tmp_path, b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".")


def test_reading_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "seconds_for", lambda _: 1)
    levels = b"".join(b"(" + b"h%c" % level * 10 + b"l\x94" for level in range(30))  # each ten times the last
    with pytest.raises(RequestError, match=r"or damaged: .*(MemoryError|SIGKILL)"):
        load(tmp_path, b"\x80\x04]\x94" + levels + b".")


def test_bytes_that_stand_once_in_a_file_make_no_gigabytes_of_arrays(tmp_path: Path) -> None:
    data = b"\x80\x04](" + b"B" + struct.pack("<I", 2**20) + bytes(2**20) + b"\x940" + BYTE + b"\x940"
    one = b"cnumpy.core.numeric\n_frombuffer\n(h\x00h\x01J\x00\x00\x10\x00\x85X\x01\x00\x00\x00CtR"
    assert len(load(tmp_path, data + one + b"e.")) == 1
    with pytest.raises(RequestError, match="or damaged: an array of"):
        load(tmp_path, data + one * 2 + b"e.")


@pytest.mark.parametrize(
    "answers",
    [
        b"",
        b"no JSON\n",
        b"7\n",
        b"{}\n",
        b'{"value": {}}\n',
        b'{"value": {"array": 0}}\n',
        b'{"value": {"tuple": 3}}\n',
        b'{"value": ' + b"[" * 100_000 + b"\n",
        b'{"array": {}}\n',
        b'{"array": {"code": "O", "order": "=", "by_columns": false, "shape": [1], "bytes": 8}}\n12345678',
        b'{"array": {"code": "u1", "order": "=", "by_columns": false, "shape": [9], "bytes": 9}}\n1',
        b'{"array": {"code": "u1", "order": "=", "by_columns": false, "shape": [-1, -1], "bytes": 1}}\n1',
        b'{"array": {"code": "u1", "order": "=", "by_columns": 0, "shape": [1000000], "bytes": 1000000}}\n1',
        b'{"value": "' + b"a" * 2**23,
    ],
)
def test_answers_that_mean_nothing_are_damage(answers: bytes) -> None:
    with pytest.raises(DAMAGE):
        read_answers(io.BytesIO(answers), 1000, lambda array: array)


TRY_ALL = """
import os, resource, runpy, socket, sys
runpy.run_path(sys.argv[1])["limit"](2**20)
assert resource.getrlimit(resource.RLIMIT_CPU) == (61, 61)
assert resource.getrlimit(resource.RLIMIT_AS)[0] < 2**31
for attempt in (lambda: open("/dev/null"), os.pipe, os.fork, socket.socket, lambda: os.write(1, b"x")):
    try:
        attempt()
    except OSError:
        continue
    sys.exit(f"{attempt} went well")
"""


def test_the_process_opens_writes_and_starts_nothing(tmp_path: Path) -> None:
    """Root may start processes whatever the limit."""
    code = TRY_ALL if os.geteuid() else TRY_ALL.replace("os.fork, ", "")
    with (tmp_path / "out").open("wb") as file:
        ended = subprocess.run(
            [sys.executable, "-IS", "-c", code, pickled.__file__],
            stdout=file,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no pickle of plain values"),
        (b"text\n", "no pickle of plain values"),
        (pickle.dumps(BOXES)[:-20], "no pickle of plain values"),
        (b"\x93NUMPY", "no pickle of plain values"),
        (b"\x93NUMPY\x01\x00\x04\x00{((\n", "no pickle of plain values"),
        (save_npy({})[:70], "no pickle of plain values"),
    ],
)
def test_what_is_no_pickle_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    with pytest.raises(RequestError, match=f"old.pkl.* {text}"):
        load(tmp_path, data)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((2, 3)), r"holds an array of float64 \(2, 3\), not one dictionary"),
        (np.array([None, None]), r"holds an array of object \(2,\), not one dictionary"),
    ],
)
def test_another_array_than_a_dictionary_is_refused(tmp_path: Path, array: NDArray[Any], text: str) -> None:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    with pytest.raises(RequestError, match=text):
        load(tmp_path, file.getvalue())


WHOLE = [pickle.dumps(BOXES | {"mask": np.eye(3)}, protocol) for protocol in range(6)]


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=3)), max_size=4))
def test_damage_anywhere_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[int, bytes]]
) -> None:
    for at, new in changes:
        place = at % len(data)
        data = data[:place] + new + data[place + 1 :]
    try:
        load(tmp_path_factory.getbasetemp(), data)
    except RequestError as error:
        message = str(error)
    else:
        return
    assert "old.pkl" in message
    assert len(message) < 1000


def test_every_name_that_is_allowed_is_one_that_pickles_of_arrays_hold() -> None:
    """So that the list does not grow unseen."""
    names: set[str] = set()
    value = [np.eye(2), np.int64(3), collections.OrderedDict(), b"x", b""]
    for protocol in range(6):
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(pickle.dumps(value, protocol)):
            if opcode.name == "GLOBAL":
                names.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names |= {f"{a}.{b}" for a in strings for b in strings if f"{a}.{b}" in NAMES}
            elif isinstance(argument, str):
                strings.append(argument)
    assert names | {name.replace("_core", "core") for name in names} == set(NAMES)


@pytest.mark.long
def test_of_30_000_damaged_and_hostile_pickles_none_gets_another_name_opens_or_starts_anything() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.pickles", "30000"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
