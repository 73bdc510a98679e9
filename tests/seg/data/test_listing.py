import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seg.data.listing import list_files, list_images, natural_key, natural_order, sequence_of
from seg.errors import RequestError
from seg.storage import as_place


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@given(st.lists(st.integers(0, 10**6), unique=True), st.sampled_from(["", "frame-", "s1/a_"]))
def test_digit_runs_sort_as_numbers(numbers: list[int], prefix: str) -> None:
    names = [f"{prefix}{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{number}.png" for number in sorted(numbers)]


def test_leading_zeros_do_not_count_as_digits() -> None:
    assert sorted(["a010", "a9", "a0008", "a11"], key=natural_key) == ["a0008", "a9", "a010", "a11"]


@given(st.lists(st.text(alphabet="a0123/#é٣.-"), unique=True), st.randoms(use_true_random=False))
def test_natural_order_is_one_order_whatever_the_names(names: list[str], random: "st.Random") -> None:
    shuffled = list(names)
    random.shuffle(shuffled)
    assert sorted(shuffled, key=natural_key) == sorted(names, key=natural_key)


def oracle_key(name: str) -> list[object]:
    """Text and numbers in turn; of equal numbers the text decides."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), part) if place % 2 else part for place, part in enumerate(parts)]


@given(st.lists(st.text(alphabet="a0123456789/#é٣.- \x01", max_size=9), unique=True))
def test_natural_order_is_that_of_texts_and_numbers_in_turn(names: list[str]) -> None:
    wanted = sorted(names, key=oracle_key)
    assert sorted(names, key=natural_key) == wanted
    assert [names[place] for place in natural_order(names)] == wanted


def test_sizes_and_times_stand_beside_the_images_also_of_pages(tmp_path: Path) -> None:
    touch(tmp_path, "b/10.png", "b/9.png")
    (tmp_path / "b/9.png").write_bytes(b"abc")
    page = Image.fromarray(np.zeros((2, 3), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    for number, name in enumerate(("a.tif", "b/9.png", "b/10.png")):
        os.utime(tmp_path / name, ns=(0, 10**9 + number))
    listing = list_images(tmp_path)
    assert listing.images == ["a.tif#0", "a.tif#1", "b/9.png", "b/10.png"]
    size = (tmp_path / "a.tif").stat().st_size
    assert listing.bytes.tolist() == [size, size, 3, 0]
    assert listing.mtime_ns.tolist() == [10**9, 10**9, 10**9 + 1, 10**9 + 2]
    first = listing.first(3)
    assert (first.images, first.bytes.tolist(), len(first.mtime_ns)) == (
        listing.images[:3],
        [size, size, 3],
        3,
    )
    assert listing.first(None).images == listing.images


def test_a_listing_knows_which_names_it_would_hold(tmp_path: Path) -> None:
    listing = list_images(tmp_path, include=("s1/*",), exclude=("*.tif",))
    assert (listing.images, len(listing.bytes), len(listing.mtime_ns)) == ([], 0, 0)
    assert [listing.covers(name) for name in ("s1/a.png", "s1/a.tif#3", "s2/a.png")] == [True, False, False]


def test_a_name_that_is_no_text_is_refused_and_can_be_excluded(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    os.close(os.open(os.fsencode(tmp_path) + b"/s/\xff1.png", os.O_CREAT))
    touch(tmp_path, "s/2.png")
    with pytest.raises(RequestError, match=r"the name 's/\\udcff1.png' is no UTF-8; rename or `exclude` it"):
        list_images(tmp_path)
    assert list_images(tmp_path, exclude=("s/?1.png",)).images == ["s/2.png"]


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to(tmp_path / "none.png")
    listing = list_images(tmp_path)
    assert (listing.images, listing.bytes.tolist()) == (["a.png"], [0])


def test_images_are_listed_by_extension_in_any_case_and_the_rest_is_counted(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("s2/10.PNG", "s2/9.png", "s10/a.Bmp", "a.JPEG", "b.jpg", "c.npy", "d.tiff"),
        *("notes.txt", "s2/x.TXT", "README", ".hidden.png", ".cache/e.png", "s2/f.png.part"),
    )
    listing = list_images(tmp_path)
    assert listing.images == ["a.JPEG", "b.jpg", "c.npy", "d.tiff", "s2/9.png", "s2/10.PNG", "s10/a.Bmp"]
    assert listing.ignored == {"(hidden)": 1, "(none)": 1, ".part": 1, ".txt": 2}


def test_what_include_and_exclude_leave_out_is_counted_too(tmp_path: Path) -> None:
    touch(tmp_path, "s1/1.png", "s1/2.png", "s2/1.png", "s2/1.bmp")
    listing = list_images(tmp_path, include=("s1/*", "*.bmp"), exclude=("*/2.png",))
    assert listing.images == ["s1/1.png", "s2/1.bmp"]
    assert listing.ignored == {".png": 2}


def test_links_out_of_the_archive_are_ignored_and_counted(tmp_path: Path) -> None:
    outside = touch(tmp_path / "outside", "x.png")
    archive = touch(tmp_path / "archive", "s/a.png")
    (archive / "inside.png").symlink_to(archive / "s/a.png")
    (archive / "leaves.png").symlink_to(outside / "x.png")
    (archive / "folder").symlink_to(outside)
    listing = list_images(archive)
    assert listing.images == ["inside.png", "s/a.png"]
    assert listing.ignored == {"(link)": 2}


def test_pages_of_a_tiff_are_images_in_page_order(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((2, 3), number, np.uint8)) for number in range(11)]
    pages[0].save(tmp_path / "b.TIF", "TIFF", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "a.tif")
    assert list_images(tmp_path).images == ["a.tif", *(f"b.TIF#{page}" for page in range(11))]


@pytest.mark.parametrize("name", ["missing", "file.png"])
def test_an_archive_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "file.png")
    with pytest.raises(RequestError, match=f"archive .*{name} is no folder; give the folder"):
        list_images(tmp_path / name)


def test_a_folder_that_cannot_be_listed_is_refused_not_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "s1/a.png", "s2/a.png")
    scandir = os.scandir

    def scan(path: str) -> "os.ScandirIterator[str]":  # permissions do not stop root, who runs CI
        if Path(path).name == "s2":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(RequestError, match="s2 cannot be listed: Permission denied; mend"):
        list_images(tmp_path)


@pytest.mark.parametrize(
    ("image", "pattern", "sequence"),
    [
        ("a/b/1.png", "", "a/b"),
        ("1.png", "", "."),
        ("a/b.tif#3", "", "a/b.tif"),
        ("a/cell#3.png", "", "a"),  # no page: a name that holds '#'
        ("run7/0001TP_12.png", r"(\w+)_\d+", "0001TP"),
        ("run7/12.png", r"run\d", "run7"),
        ("run7/12.png", r"(x)?run7", "run7"),
    ],
)
def test_a_sequence_is_the_folder_the_file_of_pages_or_what_the_pattern_says(
    image: str, pattern: str, sequence: str
) -> None:
    assert sequence_of(image, pattern) == sequence


def test_a_pattern_that_does_not_match_is_refused() -> None:
    with pytest.raises(RequestError, match=r"sequence 'x\(\.\)' does not match a/1.png"):
        sequence_of("a/1.png", "x(.)")


def test_a_folder_too_deep_for_the_system_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(21):  # step by step, as nobody can name it whole
        Path("d" * 200).mkdir()
        monkeypatch.chdir("d" * 200)
    Path("a.png").touch()
    with pytest.raises(RequestError, match=r"cannot be listed: File name too long; shorten its path$"):
        list_images(tmp_path)
    monkeypatch.chdir(tmp_path)


def link_archive(tmp_path: Path) -> Path:
    """An archive with links to a file in it, to one outside, to a folder outside, and to one behind that."""
    outside = touch(tmp_path / "outside", "x.png", "deep/y.png", ".hidden/z.png", "note.txt")
    touch(tmp_path / "beyond", "b.png")
    (outside / "deep/more").symlink_to(tmp_path / "beyond")
    archive = touch(tmp_path / "archive", "s/a.png")
    (archive / "inside.png").symlink_to(archive / "s/a.png")
    (archive / "leaves.png").symlink_to(outside / "x.png")
    (archive / "folder").symlink_to(outside)
    return archive


def test_links_that_are_followed_count_as_what_they_lead_to(tmp_path: Path) -> None:
    archive = link_archive(tmp_path)
    (tmp_path / "outside/x.png").write_bytes(b"abc")
    listing = list_images(archive, follow_links=True)
    inside = ["deep/more/b.png", "deep/y.png", "x.png"]
    assert listing.images == [*(f"folder/{name}" for name in inside), "inside.png", "leaves.png", "s/a.png"]
    assert listing.bytes.tolist() == [(archive / image).stat().st_size for image in listing.images]
    assert listing.ignored == {".txt": 1}
    by_os = {Path(folder, name) for folder, _, names in os.walk(archive, followlinks=True) for name in names}
    listed = {archive / name for name in list_files(as_place(archive), [], follow_links=True)[0].to_pylist()}
    assert listed == by_os


@pytest.mark.parametrize("target", [".", "..", "folder", "folder/deep"])
def test_links_that_go_in_a_circle_are_refused(tmp_path: Path, target: str) -> None:
    archive = link_archive(tmp_path)
    (tmp_path / "outside/deep/again").symlink_to((archive / target).resolve())
    assert len(list_images(archive).images) == 2
    text = (
        "again.* leads by a link back to .*, in which it lies; remove the link, or leave out `follow_links`"
    )
    with pytest.raises(RequestError, match=text):
        list_images(archive, follow_links=True)


def test_two_links_to_one_folder_are_no_circle(tmp_path: Path) -> None:
    archive = link_archive(tmp_path)
    (archive / "twice").symlink_to(tmp_path / "beyond")
    assert "twice/b.png" in list_images(archive, follow_links=True).images
