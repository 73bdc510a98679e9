import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg.data.images import read_file, split_page
from seg.data.listing import list_images
from seg.data.pairing import find_labels
from seg.errors import RequestError
from seg.ledger.changes import (
    Changes,
    find_changed_masks,
    find_changes,
    find_other_content,
    merge_changes,
)
from seg.ledger.ledger import Ledger
from seg.storage import as_place
from tests.outcomes import make_aside, make_scored
from tests.seg.ledger.test_ledger import age

IMAGES = ("s/1.png", "s/2.png", "s/10.png", "pages.tif#0", "pages.tif#1", "other.bmp")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """images/ and masks/ with a label for all but other.bmp; what they hold does not matter."""
    for folder, names in (("images", IMAGES[:3]), ("masks", IMAGES[:5])):
        for name in names:
            write(tmp_path / folder / (f"{name}.png" if folder == "masks" else name), f"{folder} {name}")
    write(tmp_path / "images/other.bmp", "other")
    write_pages(tmp_path / "images/pages.tif", 2)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_pages(path: Path, count: int) -> None:
    pages = [Image.fromarray(np.full((2, 3), page, np.uint8)) for page in range(count)]
    pages[0].save(path, "TIFF", save_all=True, append_images=pages[1:])


def rewrite(path: Path, text: str) -> None:
    """Other content of the same size and time."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def score_all(root: Path, **reasons: str) -> Ledger:
    """A ledger of everything under a root as it is now; by a name without its ending, why it is set aside.

    Each scored image gets a mask, in predicted/, whose content does not matter.
    """
    listing = list_images(root / "images")
    labels = find_labels(listing.images, root / "masks")
    ledger = Ledger(root / "scores")
    for image in listing.images:
        reason = reasons.get(Path(split_page(image)[0]).stem)
        known: dict[str, Any] = {}
        if reason != "unreadable":
            known |= stamp(root / "images" / split_page(image)[0], "")
        if reason in (None, "label_mismatch") and image in labels.names:
            known |= stamp(root / "masks" / labels.names[image], "label_")
            known["label_path"] = labels.names[image]
        if reason is not None:
            hashes = {"sha256", "label_sha256"}
            kept = {name: known[name] for name in known.keys() - hashes}
            ledger.add([make_aside(image, reason, **kept)])
            continue
        write(root / f"predicted/{image}.png", f"mask of {image}")
        mask = stamp(root / f"predicted/{image}.png", "mask_")
        del mask["mask_mtime_ns"]
        ledger.add([make_scored(image, **known, **mask)])
    ledger.commit()
    return ledger


def stamp(path: Path, prefix: str) -> dict[str, Any]:
    file = read_file(path)
    values = {"bytes": len(file.data), "mtime_ns": file.mtime_ns, "sha256": file.sha256}
    return {f"{prefix}{name}": value for name, value in values.items()}


def changes(root: Path, ledger: Ledger, **patterns: tuple[str, ...]) -> Changes:
    listing = list_images(root / "images", **patterns)
    return find_changes(listing, find_labels(listing.images, root / "masks"), ledger)


def test_nothing_has_changed_where_nothing_was_touched(root: Path) -> None:
    found = changes(root, score_all(root))
    assert found == Changes()
    found.refuse()
    assert list(found.lines()) == []


def test_images_that_differ_in_size_or_time_alone_have_changed(root: Path) -> None:
    ledger = score_all(root)
    rewrite(root / "images/s/10.png", "IMAGES s/10.png")
    assert changes(root, ledger).changed == []  # neither: --verify finds it
    os.utime(root / "images/s/10.png", ns=(0, 1))
    before = (root / "images/s/2.png").stat()
    write(root / "images/s/2.png", "longer than before")
    os.utime(root / "images/s/2.png", ns=(0, before.st_mtime_ns))
    found = changes(root, ledger)
    assert (found.images, found.labels) == (["s/2.png", "s/10.png"], [])
    with pytest.raises(
        RequestError, match=r"^2 images \(s/2.png, s/10.png\) changed since .*`rescore_changed`"
    ):
        found.refuse()


@pytest.mark.parametrize("reasons", [{}, {"pages": "truncated"}])
def test_both_pages_of_a_changed_tiff_have_changed_also_where_it_has_others_now(
    reasons: dict[str, str], root: Path
) -> None:
    ledger = score_all(root, **reasons)
    write_pages(root / "images/pages.tif", 3)
    assert changes(root, ledger).images == ["pages.tif#0", "pages.tif#1"]
    write_pages(root / "images/pages.tif", 1)
    (root / "masks/pages.tif#1.png").unlink()
    found = changes(root, ledger)
    assert (found.images, found.gone) == (["pages.tif#0", "pages.tif#1"], [])


def test_labels_that_differ_have_come_or_have_gone_have_changed(root: Path) -> None:
    ledger = score_all(root)
    write(root / "masks/other.png", "new")
    (root / "masks/s/1.png.png").unlink()
    os.utime(root / "masks/s/2.png.png", ns=(0, 1))
    (root / "masks/s/10.png.png").rename(root / "masks/s/10.txt")  # as old and as large, and read otherwise
    write(root / "images/s/2.png", "and its image")
    found = changes(root, ledger)
    assert found.images == ["s/2.png"]
    assert found.labels == ["other.bmp", "s/1.png", "s/10.png"]
    assert found.changed == ["s/2.png", "other.bmp", "s/1.png", "s/10.png"]
    with pytest.raises(RequestError, match=r"1 image \(s/2.png\) and 3 labels \(other.bmp, s/1.png, "):
        found.refuse()


def test_images_set_aside_have_changed_when_their_file_or_the_label_to_blame_has(root: Path) -> None:
    ledger = score_all(
        root, **{"1": "truncated", "2": "label_mismatch", "10": "unreadable", "other": "label_missing"}
    )
    assert changes(root, ledger) == Changes()
    for name in ("1", "2", "10"):
        os.utime(root / f"masks/s/{name}.png.png", ns=(0, 1))
    write(root / "masks/other.png", "new")
    assert changes(root, ledger).labels == ["other.bmp", "s/2.png"]  # the others' labels did not matter
    write(root / "images/s/1.png", "mended")
    write(root / "images/s/10.png", "was never read: nothing to compare")
    assert changes(root, ledger).images == ["s/1.png"]


def test_images_that_are_gone_are_told_from_those_that_a_pattern_leaves_out(root: Path) -> None:
    ledger = score_all(root)
    (root / "images/other.bmp").unlink()
    (root / "images/s/1.png").unlink()
    found = changes(root, ledger)
    assert (found.changed, found.gone) == ([], ["other.bmp", "s/1.png"])
    (line,) = found.lines()
    assert line.startswith("2 scored images are no longer in the archive (other.bmp, s/1.png); their rows")
    assert changes(root, ledger, exclude=("s/*",)).gone == ["other.bmp"]


def test_a_long_list_of_changes_is_counted_and_begun() -> None:
    with pytest.raises(RequestError, match=r"^30 images \(0, 1, 2, 3, 4, \.\.\.\) changed"):
        Changes([str(k) for k in range(30)]).refuse()


def test_verifying_finds_other_content_of_the_same_size_and_time(root: Path) -> None:
    ledger = score_all(root)
    archive, labels = as_place(root / "images"), as_place(root / "masks")
    assert find_other_content(archive, labels, ledger) == Changes()
    rewrite(root / "images/s/2.png", "IMAGES s/2.png")
    rewrite(root / "masks/s/1.png.png", "MASKS s/1.png")
    whole = (root / "images/pages.tif").read_bytes()
    (root / "images/pages.tif").write_bytes(whole[:-1] + b"!")
    (root / "images/other.bmp").unlink()
    found = find_other_content(archive, labels, ledger)
    assert found == Changes(["pages.tif#0", "pages.tif#1", "s/2.png"], ["s/1.png"])
    assert find_other_content(archive, None, ledger).labels == []


def mask_changes(root: Path, ledger: Ledger, *, asked: int = 6, **patterns: tuple[str, ...]) -> Changes:
    found = find_changed_masks(as_place(root / "predicted"), ledger)
    return merge_changes([found], list_images(root / "images", **patterns), asked)


def test_masks_that_are_missing_are_told_from_those_of_another_size(root: Path) -> None:
    ledger = score_all(root)
    assert mask_changes(root, ledger) == Changes()
    for name in ("s/10.png", "pages.tif#1", "s/2.png"):
        (root / f"predicted/{name}.png").unlink()
    (root / "predicted/s/1.png.png").write_bytes(b"")
    os.utime(root / "predicted/other.bmp.png", ns=(0, 1))
    (root / "predicted/s").joinpath(os.fsdecode(b"\xff.png")).write_bytes(b"a name that Arrow cannot hold")
    found = mask_changes(root, ledger)
    assert found == Changes(masks=["s/1.png"], unmasked=["pages.tif#1", "s/2.png", "s/10.png"])
    assert list(found.lines()) == [
        "3 masks are missing (pages.tif#1, s/2.png, s/10.png); their images are scored again"
    ]
    with pytest.raises(RequestError, match=r"^1 mask \(s/1.png\) changed since .*`rescore_changed`"):
        found.refuse()
    assert list_images(root / "images").images.index("s/1.png") == 3
    assert mask_changes(root, ledger, asked=4).unmasked == ["pages.tif#1"]  # the others are not asked for


def test_masks_of_images_that_are_gone_are_told_and_left(root: Path) -> None:
    ledger = score_all(root)
    for name in ("images/other.bmp", "images/s/1.png", "predicted/other.bmp.png", "predicted/s/2.png.png"):
        (root / name).unlink()
    (root / "predicted/s/1.png.png").write_bytes(b"another")
    found = mask_changes(root, ledger)
    assert (found.changed, found.unmasked, found.lost) == ([], ["s/2.png"], ["other.bmp", "s/1.png"])
    assert next(found.lines()).startswith("masks of 2 of these are missing or have changed (other.bmp, s/1")
    left_out = mask_changes(root, ledger, exclude=("s/*",))
    assert (left_out.unmasked, left_out.lost) == ([], ["other.bmp"])


def test_of_parts_that_know_no_masks_only_presence_counts(root: Path) -> None:
    ledger = score_all(root)
    age(root / "scores")
    (root / "predicted/s/1.png.png").write_bytes(b"another")
    (root / "predicted/s/2.png.png").unlink()
    assert mask_changes(root, ledger) == Changes(unmasked=["s/2.png"])
    masks = as_place(root / "predicted")
    assert find_other_content(as_place(root / "images"), None, Ledger(root / "scores"), masks) == Changes()


def test_masks_in_a_linked_folder_are_there(root: Path) -> None:
    ledger = score_all(root)
    (root / "predicted/s").rename(root / "elsewhere")
    (root / "predicted/s").symlink_to(root / "elsewhere")
    assert mask_changes(root, ledger) == Changes()
    (root / "predicted/s").unlink()
    assert mask_changes(root, ledger).unmasked == ["s/1.png", "s/2.png", "s/10.png"]


def test_verifying_finds_masks_of_other_content_and_the_same_size(root: Path) -> None:
    ledger = score_all(root)
    archive, masks = as_place(root / "images"), as_place(root / "predicted")
    assert find_other_content(archive, None, ledger, masks) == Changes()
    rewrite(root / "predicted/pages.tif#1.png", "MASK of pages.tif#1")
    rewrite(root / "predicted/s/2.png.png", "MASK of s/2.png")
    (root / "predicted/s/1.png.png").unlink()
    assert mask_changes(root, ledger).masks == []
    assert find_other_content(archive, None, ledger, masks) == Changes(masks=["pages.tif#1", "s/2.png"])
    assert find_other_content(archive, None, ledger) == Changes()


def test_verifying_reads_every_file_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, hashed = score_all(root), []
    real = hashlib.sha256

    def count(*content: bytes) -> Any:
        hashed.append(content)
        return real(*content)

    monkeypatch.setattr("seg.storage.hashlib.sha256", count)
    find_other_content(as_place(root / "images"), as_place(root / "masks"), ledger)
    assert hashed.count(()) == 5 + 5  # of the two pages' file once; a part's bytes are hashed in one go
