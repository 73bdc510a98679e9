"""Stacks of masks: the pages of a TIFF are the labels of the pages of an image's TIFF."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cluster.score import score
from cluster.session import Session
from seg.data.convert import Part, convert_dataset
from seg.data.images import ImageFiles
from seg.data.labels import decode_label, open_label
from seg.data.pairing import find_labels, find_namings
from seg.data.plain import LabelRule, open_plain
from seg.data.splits import data_fingerprint
from seg.errors import LabelMismatch, RequestError
from seg.pack.pack import PackPlan, PackSettings, rows_by_threads
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.storage import as_place
from tests.small import ledger_rows, write_model

SHAPE = (5, 24, 40)
CLASSES = ("background", "object")


def draw_stack(seed: int, pages: int = SHAPE[0]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images and masks of 0 and 1, uint8 [pages, H, W]; no two pages are alike."""
    random = np.random.default_rng(seed)
    return (
        random.integers(0, 256, (pages, *SHAPE[1:]), np.uint8),
        random.integers(0, 2, (pages, *SHAPE[1:]), np.uint8),
    )


def write(path: Path, pages: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pages, photometric="minisblack")


@pytest.mark.parametrize("name", ["masks/s.tif", "masks/s.tiff", "masks/s_mask.tif", "images/s_mask.tif"])
def test_each_page_has_its_own_mask(tmp_path: Path, name: str) -> None:
    images, masks = draw_stack(0)
    write(tmp_path / "images/s.tif", images)
    write(tmp_path / name, masks)
    suffix = "_mask" if "_mask" in name else ""
    data = open_plain(tmp_path / "images", rule=LabelRule(folder=(tmp_path / name).parent, suffix=suffix))
    files = ImageFiles()
    assert [sample.name for sample in data.samples] == [f"s.tif#{page}" for page in range(SHAPE[0])]
    for page, sample in enumerate(data.samples):
        mask = sample.read_mask(files, SHAPE[1:], CLASSES, ())
        np.testing.assert_array_equal(mask, masks[page])
        np.testing.assert_array_equal(files.decode(sample.image, sample.page), images[page])


def test_a_pack_and_a_conversion_have_the_masks_of_single_files(tmp_path: Path) -> None:
    images, masks = draw_stack(1)
    write(tmp_path / "stack/images/s.tif", images)
    write(tmp_path / "stack/masks/s.tif", masks)
    data = open_plain(tmp_path / "stack")
    settings = PackSettings(
        preprocessing=Preprocessing(shrink=1, background_every=0),
        label_map=(),
        classes=CLASSES,
        own_masks=True,
    )
    fingerprint = data_fingerprint(data.samples, data.root, labels=data.labels)
    rows = list(rows_by_threads(PackPlan(samples=data.samples, fingerprint=fingerprint, settings=settings)))
    for page, row in enumerate(rows):
        assert row["own_mask"][0].as_py() == masks[page].tobytes()
    part = Part(dataset="plain", split="train", share=0.4)
    converted = convert_dataset(part, tmp_path / "stack", tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain/masks").iterdir())
    assert len(names) == converted.images > 0
    for name in names:
        page = int(name.removesuffix(".png").rpartition("#")[2])
        written = (tmp_path / "plain/masks" / name).read_bytes()
        np.testing.assert_array_equal(decode_label(written, Path(name), SHAPE[1:], CLASSES), masks[page])


def test_the_fingerprint_counts_a_stack_of_masks_once_and_notices_another(tmp_path: Path) -> None:
    images, masks = draw_stack(2)
    write(tmp_path / "images/s.tif", images)
    write(tmp_path / "masks/s.tif", masks)
    data = open_plain(tmp_path)
    before = data_fingerprint(data.samples, data.root, labels=data.labels)
    masks[3, 0, 0] ^= 1
    write(tmp_path / "masks/s.tif", masks)
    assert data_fingerprint(data.samples, data.root, labels=data.labels) != before


@pytest.mark.parametrize("pages", [1, 4, 6])
def test_stacks_of_other_lengths_are_refused_before_anything_is_read(tmp_path: Path, pages: int) -> None:
    write(tmp_path / "s.tif", draw_stack(3, pages)[1])
    images = [f"s.tif#{page}" for page in range(SHAPE[0])]
    said = rf"s.tif has {pages} pages? but s.tif 5, so that nobody knows which mask is which image's"
    with pytest.raises(RequestError, match=said):
        find_labels(images, tmp_path)


def test_stacks_single_masks_and_images_without_one_go_together(tmp_path: Path) -> None:
    write(tmp_path / "d/s.tif", draw_stack(4)[1])
    write(tmp_path / "a.tif", draw_stack(5, 1)[1][0])
    write(tmp_path / "t#1.tif", draw_stack(6, 1)[1][0])
    stack = [f"d/s.png.tif#{page}" for page in range(2)] + [f"d/s.tif#{page}" for page in range(SHAPE[0])]
    images = ["a.png", "b.png", *stack, "t.tif#0", "t.tif#1"]
    found = find_labels(images, tmp_path)
    assert dict(found.names) == {
        "a.png": "a.tif",
        "t.tif#1": "t#1.tif",
        **{f"d/s.tif#{page}": f"d/s.tif#{page}" for page in range(SHAPE[0])},
    }
    assert found.unused == 0
    sizes = [(tmp_path / "d/s.tif").stat().st_size] * SHAPE[0]
    assert found.bytes[[images.index(f"d/s.tif#{page}") for page in range(SHAPE[0])]].tolist() == sizes


def test_two_stacks_of_images_do_not_share_one_of_masks(tmp_path: Path) -> None:
    write(tmp_path / "s.tif", draw_stack(7, 2)[1])
    images = [f"{folder}/s.tif#{page}" for folder in "ab" for page in range(2)]
    with pytest.raises(RequestError, match=r"s.tif#0 fits a/s.tif#0 and b/s.tif#0; name it after one"):
        find_labels(images, tmp_path, find_namings())


def test_a_page_and_a_file_are_two_candidates(tmp_path: Path) -> None:
    write(tmp_path / "s.tif", draw_stack(8, 2)[1])
    write(tmp_path / "s#1.tif", draw_stack(8, 1)[1][0])
    with pytest.raises(RequestError, match=r"s.tif#1 has two labels, s#1.tif and s.tif#1; remove one"):
        find_labels(["s.tif#0", "s.tif#1"], tmp_path)


def test_a_damaged_page_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    masks = draw_stack(9)[1]
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, masks, photometric="minisblack", compression="zlib", contiguous=False)
    with tifffile.TiffFile(path) as opened:
        at = opened.pages[2].dataoffsets[0]  # type: ignore[union-attr]
    damaged = bytearray(path.read_bytes())
    damaged[at + 20] ^= 0xFF
    path.write_bytes(damaged)
    files = ImageFiles()
    for page in range(SHAPE[0]):
        label = tmp_path / f"s.tif#{page}"
        if page == 2:
            with pytest.raises(LabelMismatch, match=r"label .*s.tif#2 cannot be read"):
                decode_label(open_label(files, label), label, SHAPE[1:], CLASSES)
        else:
            mask = decode_label(open_label(files, label), label, SHAPE[1:], CLASSES)
            np.testing.assert_array_equal(mask, masks[page])


def test_another_size_is_said_before_a_page_is_decoded(tmp_path: Path) -> None:
    write(tmp_path / "s.tif", draw_stack(10)[1])
    label = tmp_path / "s.tif#1"
    with pytest.raises(LabelMismatch, match=r"s.tif#1 is 40 x 24 pixels but its image is 24 x 40 pixels"):
        decode_label(open_label(ImageFiles(), label), label, (40, 24), CLASSES)


def ask(root: Path, model: Path, **options: Any) -> ScoreRequest:
    return ScoreRequest(
        archive=as_place(root),
        models=(model,),
        out=as_place(root.with_name(f"{root.name}-scores")),
        **options,
    )


def test_a_scoring_of_stacks_counts_what_single_files_count_and_verifies_their_masks(tmp_path: Path) -> None:
    images, masks = draw_stack(11)
    for page in range(SHAPE[0]):
        write(tmp_path / f"single/images/{page}.tif", images[page])
        write(tmp_path / f"single/masks/{page}.tif", masks[page])
    write(tmp_path / "stack/images/s.tif", images)
    write(tmp_path / "stack/masks/s.tif", masks)
    model = write_model(tmp_path / "model.safetensors", preprocessing=Preprocessing(background_every=0))
    idle = Session(1, 0, 0, connected=False)
    found = {}
    for name in ("single", "stack"):
        request = ask(tmp_path / name, model, workers=0)
        score(request, idle)
        rows = ledger_rows(request.out.local())
        found[name] = {row["image"].removesuffix(".tif").removeprefix("s.tif#"): row for row in rows}
    for page in map(str, range(SHAPE[0])):
        one, other = found["single"][page], found["stack"][page]
        for column in ("confusion", "class_pixels", "ignored", "labelled"):
            assert one[column] == other[column], column
        assert np.sum(one["confusion"], axis=None) == images[0].size
        assert other["label_path"] == f"s.tif#{page}"
        assert (
            other["label_sha256"] == hashlib.sha256((tmp_path / "stack/masks/s.tif").read_bytes()).hexdigest()
        )
    stack, request = tmp_path / "stack/masks/s.tif", ask(tmp_path / "stack", model, workers=0)
    before = stack.stat()
    write(stack, 1 - masks)
    os.utime(stack, ns=(before.st_atime_ns, before.st_mtime_ns))
    score(request, idle)  # the same size and time: not looked at
    with pytest.raises(RequestError, match=r"^5 labels \(s.tif#0, .*, s.tif#4\) changed since"):
        score(replace(request, verify=True), idle)
    score(replace(request, verify=True, rescore_changed=True), idle)
    for row in ledger_rows(request.out.local()):
        before_row = found["stack"][row["image"].removeprefix("s.tif#")]
        matrix, flipped = np.reshape(row["confusion"], (2, 2)), np.reshape(before_row["confusion"], (2, 2))
        np.testing.assert_array_equal(matrix, flipped[::-1])
