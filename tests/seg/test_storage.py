import hashlib
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from pyarrow.fs import FileSystem

from seg.data.images import FileBytes, read_from
from seg.errors import RequestError
from seg.storage import FileStat, Place, as_place, open_place, refusing, shown_uri
from tests.s3 import BUCKET, S3
from tests.small import read_tree

FORMS: dict[str, Callable[[Path, S3], str]] = {
    "an absolute path": lambda folder, _: str(folder / "a b"),
    "file": lambda folder, _: f"file://{quote(str(folder / 'a b'))}/",
    "s3": lambda folder, _: f"s3://{BUCKET}/{folder.name}/",
    "s3 with its server": lambda folder, s3: f"s3://{BUCKET}/{folder.name}?endpoint_override={s3.endpoint}",
}


@pytest.fixture(params=FORMS.values(), ids=FORMS.keys())
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Place:
    return open_place(request.param(tmp_path, s3)).below("run")


def test_files_come_back_from_every_kind_of_place(place: Place, tmp_path: Path) -> None:
    content = random.Random(0).randbytes((11 << 20) + 3)  # more than S3 takes in one part
    (tmp_path / "source.bin").write_bytes(content)
    assert place.names("last") == []
    assert place.read("last/a.bin") is None
    place.upload("last/a.bin", tmp_path / "source.bin")
    place.write("last/b c#1.json", b"{}")
    place.write("last/below/d.bin", b"deeper")
    assert place.names("last") == ["a.bin", "b c#1.json"]
    place.download("last/a.bin", tmp_path / "target.bin")
    assert (tmp_path / "target.bin").read_bytes() == content
    assert place.read("last/b c#1.json") == b"{}"
    place.write("last/b c#1.json", b"[]")
    assert place.below("last").read("b c#1.json") == b"[]"
    place.remove("last/a.bin")
    place.remove("last/a.bin")
    assert place.names("last") == ["b c#1.json"]


def test_a_place_tells_size_and_time_of_its_files_and_lists_them_all(place: Place) -> None:
    assert (place.exists(), place.entries(), list(place.files()), place.stat("a.bin")) == (
        False,
        [],
        [],
        None,
    )
    contents = {"a.bin": b"abc", "last/b c#1.bin": b"", "last/below/.hidden": b"x" * 1000}
    for name, content in contents.items():
        place.write(name, content)
    assert place.exists()
    assert place.entries() == ["a.bin", "last"]
    files = {name: FileStat(size, mtime_ns) for name, size, mtime_ns in place.files()}
    assert files == {name: place.stat(name) for name in contents}
    assert {name: found.bytes for name, found in files.items()} == {k: len(v) for k, v in contents.items()}
    assert all(abs(found.mtime_ns / 1e9 - time.time()) < 600 for found in files.values())
    assert place.stat("last") is None
    for name, content in contents.items():
        assert place.sha256(name) == hashlib.sha256(content).hexdigest()
        with place.open(name) as file:
            assert file.read() == content
            file.seek(len(content) // 2)
            assert file.read(1) == content[len(content) // 2 :][:1]
        assert read_from(place, name) == FileBytes(content, files[name].mtime_ns)
    with pytest.raises(FileNotFoundError):
        read_from(place, "none.bin")


def test_json_comes_back_and_a_place_is_the_same_in_another_process(place: Place) -> None:
    assert place.read_json("a.json") is None
    place.write_json("a.json", {"é": [1, float("nan")]})
    again = pickle.loads(pickle.dumps(place))  # noqa: S301  # as it goes to Ray's workers
    assert again == place
    assert again.read_json("a.json") == {"é": [1, None]}


def test_a_place_on_a_store_takes_no_keys_along(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert b"hunter2" not in pickle.dumps(as_place(f"s3://{BUCKET}/a"))


def test_paths_and_uris_of_one_folder_are_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = as_place(tmp_path / "a b")
    assert place == as_place("a b") == as_place(Path("./a b")) == as_place(place)
    assert place == as_place(f"file://{quote(str(tmp_path))}/a%20b")
    assert str(place) == str(tmp_path / "a b") == str(place.local())
    assert place.local("x/y") == tmp_path / "a b/x/y"
    with pytest.raises(RequestError, match=r"ftp://server/a cannot be opened"):
        as_place("ftp://server/a")


def test_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    place = as_place(tmp_path / "a")
    place.write("below/x.bin", b"x")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/link.bin").symlink_to(tmp_path / "a/below/x.bin")
    (tmp_path / "a/nowhere.bin").symlink_to(tmp_path / "none")
    assert sorted(name for name, _, _ in place.files()) == ["below/x.bin", "link.bin"]


def test_what_is_not_there_cannot_be_downloaded(place: Place, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        place.download("none.bin", tmp_path / "target.bin")


def test_a_local_place_is_an_ordinary_folder(tmp_path: Path) -> None:
    open_place(str(tmp_path / "store")).below("run").write("last/a.bin", b"content")
    assert read_tree(tmp_path) == {"store/run/last/a.bin": b"content"}


def test_an_upload_that_fails_leaves_the_old_content(tmp_path: Path, s3: S3) -> None:
    for uri in (str(tmp_path / "store"), f"s3://{BUCKET}/old"):
        place = open_place(uri)
        place.write("a.bin", b"old")
        with pytest.raises(FileNotFoundError):
            place.upload("a.bin", tmp_path / "none.bin")
        assert place.read("a.bin") == b"old"
        assert place.names() == ["a.bin"]


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("runs/cells", "empty scheme"),
        ("", "empty"),
        ("ftp://server/a", "Unrecognized filesystem type"),
        ("s3://", "names no bucket"),
        ("s3://bucket/a?regio=x", "'regio'"),
        ("s3://bu cket/a", "syntax error"),
    ],
)
def test_what_is_no_place_is_refused_in_one_sentence(uri: str, words: str, s3: S3) -> None:
    with pytest.raises(RequestError) as refused:
        open_place(uri)
    text = str(refused.value)
    assert words in text
    assert text.startswith(uri.partition("?")[0])
    assert "give s3://BUCKET/PATH" in text
    assert "\n" not in text


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    with pytest.raises(RequestError) as refused:
        open_place("s3://me:hunter2@bucket/a")
    assert str(refused.value).startswith("s3://bucket/a, as given, holds a password")
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_place_is_shown_without_the_options_of_its_uri(s3: S3) -> None:
    place = open_place(f"s3://{BUCKET}/a?endpoint_override={s3.endpoint}&region=eu-west-1")
    assert place.below("run").uri == f"s3://{BUCKET}/a/run"


def test_google_is_not_waited_for_a_quarter_of_an_hour() -> None:
    uri = "gs://anonymous@bucket/a?endpoint_override=127.0.0.1:1&scheme=http"
    place = open_place(uri)
    assert place.path == "bucket/a"
    assert place.filesystem == FileSystem.from_uri(f"{uri}&retry_limit_seconds=30")[0]
    patient = open_place(f"{uri}&retry_limit_seconds=31").filesystem
    assert place.filesystem != patient == FileSystem.from_uri(f"{uri}&retry_limit_seconds=31")[0]


def write_to(uri: str) -> None:
    with refusing(uri):
        open_place(uri).write("a.bin", b"content")


def test_a_bucket_that_is_not_there_is_the_users_to_mend(s3: S3) -> None:
    with pytest.raises(
        RequestError, match=r"^s3://none/a cannot be used \(.*bucket does not exist.*\); check"
    ):
        write_to("s3://none/a")


def test_keys_that_are_not_accepted_are_the_users_to_mend(s3: S3) -> None:
    with (
        s3.refusing(),
        pytest.raises(RequestError, match=r"cannot be used \(.*INVALID_ACCESS_KEY_ID.*\).*your rights"),
    ):
        write_to(f"s3://{BUCKET}/a")


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(RequestError, match=r"cannot be used \(.*Not a directory.*\); check"):
        write_to(str(tmp_path / "file" / "store"))


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/a?access_key=K&secret_key=TOPSECRET&region=eu-west-1",
        "s3://bucket/a?region=eu-west-1&TOPSECRET",
        "s3://bucket/a b?secret_key=TOP%53ECRET",
        "s3://[bucket/a?secret_key=TOPSECRET",
        "s3://?secret_key=TOPSECRET",
        "gs://bucket/a?secret_key=TOPSECRET",
        "ftp://bucket/a?secret_key=TOPSECRET",
        "hdfs://me@host:1/a?secret_key=TOPSECRET",
        "s3://KEY:TOPSECRET@bucket/a",
        "s3://KEY:TOP/SECRET@bucket/a",
        "s3://bucket:TOPSECRET/a",
    ],
)
def test_no_message_repeats_what_may_be_a_key(uri: str) -> None:
    with pytest.raises(RequestError) as refused:
        open_place(uri)
    assert "TOP" not in str(refused.value)
    assert "SECRET" not in str(refused.value).replace("AWS_SECRET_ACCESS_KEY", "")
    assert str(refused.value).startswith(uri.partition("://")[0] + "://")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://bucket/a@b/c?region=x", "s3://bucket/a@b/c"),
        ("hdfs://me@host:9000/a", "hdfs://host:9000/a"),
        ("http://[::1]:5000/a#b", "http://[::1]:5000/a"),
        ("file:///a/b", "file:///a/b"),
        ("databricks", "databricks"),
        ("localhost:5000?token=x", "localhost:5000"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_a_uri_is_shown_without_user_and_options(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown
