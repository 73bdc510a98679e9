import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.images import decode_image
from seg.data.plain import open_plain
from seg.data.preprocess import image_statistics, measure_intensity, preprocess
from seg.data.splits import data_fingerprint
from seg.pack.build import ensure_pack
from seg.pack.pack import Pack, PackPlan, PackSettings, estimate_bytes, rows_by_threads
from seg.recipe import Preprocessing
from tests.conftest import WriteArchive

SETTINGS = PackSettings(
    preprocessing=Preprocessing(shrink=3), label_map=(), classes=("background", "disc"), own_masks=True
)


def plan_of(root: Path, settings: PackSettings = SETTINGS) -> PackPlan:
    samples = open_plain(root).samples
    return PackPlan(samples=samples, fingerprint=data_fingerprint(samples, root), settings=settings)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shrink", [1, 2.3, 3])
@pytest.mark.parametrize("own_masks", [True, False])
def test_rows_are_what_preprocessing_gives(
    write_archive: WriteArchive, channels: int, shrink: float, own_masks: bool
) -> None:
    preprocessing = Preprocessing(channels=channels, shrink=shrink)
    settings = replace(SETTINGS, preprocessing=preprocessing, own_masks=own_masks)
    plan = plan_of(write_archive(size=(61, 94)), settings)
    samples, pack = plan.samples, Pack(ensure_pack(plan))
    assert len(pack) == len(samples)
    for sample, row in zip(samples, pack.images(), strict=True):
        image = decode_image(sample.image.read_bytes())
        mask = np.asarray(Image.open(sample.label))
        working = preprocess(image, preprocessing)
        np.testing.assert_array_equal(row.pixels, working)
        assert (row.name, row.sequence, row.own_size) == (sample.name, sample.sequence, image.shape)
        assert row.statistics == image_statistics(working)
        assert row.intensity == measure_intensity(image)
        assert row.mask.shape == working.shape[:2]
        if own_masks:
            np.testing.assert_array_equal(row.own_mask, mask)
        else:
            assert row.own_mask is None
        if shrink == 1:
            np.testing.assert_array_equal(row.mask, mask)


def test_a_training_learns_from_masks_of_one_bit_and_boxes_of_named_classes(
    write_archive: WriteArchive,
) -> None:
    root = write_archive(sequences=1, frames=2)
    truth = np.zeros((64, 96), bool)
    truth[10:30, 20:60] = True
    Image.fromarray(truth).save(root / "masks/s0/0.png")
    (root / "masks/s0/1.png").unlink()
    label = {"boxes": [[5, 5, 10, 10], [50, 20, 8, 4]], "classes": ["dust", "disc"]}
    (root / "masks/s0/1.json").write_text(json.dumps(label))
    plan = plan_of(root, replace(SETTINGS, classes=("background", "disc", "dust")))
    counted = Pack(ensure_pack(plan)).class_pixels().tolist()
    assert counted == [[64 * 96 - 800, 800, 0], [64 * 96 - 132, 32, 100]]


def test_a_16_bit_image_stays_16_bit(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=1, frames=1)
    stored = np.random.default_rng(0).integers(0, 65536, (64, 96), dtype=np.uint16)
    Image.fromarray(stored).save(root / "images/s0/0.png")
    settings = replace(SETTINGS, preprocessing=Preprocessing())
    row = Pack(ensure_pack(plan_of(root, settings)))[0]
    assert row.pixels.dtype == np.uint16
    np.testing.assert_array_equal(row.pixels, stored)
    assert row.statistics.bit_depth == 16


def test_a_packs_intensities_are_those_of_its_images_as_stored(write_archive: WriteArchive) -> None:
    plan = plan_of(write_archive(), replace(SETTINGS, preprocessing=Preprocessing(clahe_clip=2.0, shrink=3)))
    stored = [decode_image(sample.image.read_bytes()) for sample in plan.samples]
    (span,) = Pack(ensure_pack(plan)).intensities()
    means = [pixels.mean() for pixels in stored]
    assert (span.bit_depth, span.lowest_mean, span.highest_mean) == (8, min(means), max(means))
    assert (span.low, span.high) == (
        min(np.percentile(pixels, 1, method="inverted_cdf") for pixels in stored),
        max(np.percentile(pixels, 99, method="inverted_cdf") for pixels in stored),
    )


def test_each_page_of_a_tiff_is_packed_as_itself(tmp_path: Path) -> None:
    pages = [np.full((40, 50), 10 * (k + 1), np.uint8) for k in range(3)]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    first, *rest = map(Image.fromarray, pages)
    first.save(tmp_path / "images/t.tif", save_all=True, append_images=rest)
    for number, page in enumerate(pages):
        Image.fromarray(page // 30).save(tmp_path / f"masks/t.tif#{number}.png")
    pack = Pack(ensure_pack(plan_of(tmp_path)))
    assert [(row.name, row.pixels[0, 0], row.mask[0, 0]) for row in pack.images()] == [
        ("t.tif#0", 10, 0), ("t.tif#1", 20, 0), ("t.tif#2", 30, 1),
    ]  # fmt: skip


def test_a_pack_travels_as_its_path(write_archive: WriteArchive) -> None:
    pack = Pack(ensure_pack(plan_of(write_archive())))
    sent = pickle.dumps(pack)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[0].pixels, pack[0].pixels)  # noqa: S301


def test_the_fingerprint_is_the_hash_that_the_design_gives(write_archive: WriteArchive) -> None:
    root = write_archive()
    plan = plan_of(root)
    samples, fingerprint = plan.samples, plan.fingerprint
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    lines = [f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n" for name in files]
    assert fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fingerprint == data_fingerprint(reversed(samples), root)
    moved = write_archive("elsewhere")
    assert plan_of(moved).fingerprint == fingerprint
    (moved / "masks/s0/0.png").write_bytes(b"other")
    assert plan_of(moved).fingerprint != fingerprint


def test_whatever_changes_a_row_changes_the_pack(write_archive: WriteArchive) -> None:
    plan = plan_of(write_archive())
    samples = plan.samples
    swapped = (replace(samples[0], label=samples[1].label), replace(samples[1], label=samples[0].label))
    plans = [
        plan,
        replace(plan, samples=samples[:3]),
        replace(plan, samples=(*swapped, *samples[2:])),
        replace(plan, samples=(replace(samples[0], sequence="x"), *samples[1:])),
        replace(plan, fingerprint=plan.fingerprint[::-1]),
        replace(plan, settings=replace(SETTINGS, label_map=((1, 255),))),
        replace(plan, settings=replace(SETTINGS, classes=("background", "disc", "dust"))),
        replace(plan, settings=replace(SETTINGS, classes=("background", "cell"))),  # which boxes may name
        replace(plan, settings=replace(SETTINGS, own_masks=False)),
        replace(plan, settings=replace(SETTINGS, preprocessing=Preprocessing(shrink=2))),
    ]
    assert len({plan.path for plan in plans}) == 10


@pytest.mark.parametrize("size", [(61, 94), (64, 96)])
def test_a_row_knows_its_object_pixels_on_a_grid(write_archive: WriteArchive, size: tuple[int, int]) -> None:
    root = write_archive(size=size)
    for file in (root / "masks").rglob("*.png"):
        mask = np.array(Image.open(file))
        mask[32] = 255
        Image.fromarray(mask).save(file)
    plan = plan_of(root, replace(SETTINGS, preprocessing=Preprocessing()))
    for row in Pack(ensure_pack(plan)).images():
        grid = [(top, left) for top in range(0, size[0], 8) for left in range(0, size[1], 8)]
        shown = [number for number, place in enumerate(grid) if row.mask[place] == 1]
        assert shown
        assert row.objects.tolist() == shown


def test_the_arrays_of_a_pack_are_the_file_s_own_bytes(write_archive: WriteArchive) -> None:
    pack = Pack(ensure_pack(plan_of(write_archive())))
    content = pack.path.read_bytes()
    arrays = [array for row in range(len(pack)) for array in pack[row].arrays if array.size]
    spans = list(pack.array_spans())  # by the addresses that the arrays have in memory
    assert [content[first : first + size] for first, size in spans] == [array.tobytes() for array in arrays]


def test_rows_come_in_order_and_alike_whatever_the_number_of_threads(write_archive: WriteArchive) -> None:
    plan = plan_of(write_archive())
    one, three = (list(rows_by_threads(plan, threads)) for threads in (1, 3))
    assert [row.column("name")[0].as_py() for row in one] == [sample.name for sample in plan.samples]
    assert all(left.equals(right) for left, right in zip(one, three, strict=True))


@pytest.mark.parametrize("own_masks", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_headers_tell_how_large_a_pack_becomes(
    write_archive: WriteArchive, own_masks: bool, dtype: type[np.generic]
) -> None:
    root = write_archive(size=(900, 1000), frames=1)
    for file in (root / "images").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(file)).astype(dtype)).save(file)
    plan = plan_of(root, SETTINGS)
    plan = replace(plan, settings=replace(SETTINGS, own_masks=own_masks))
    assert estimate_bytes(plan) == pytest.approx(ensure_pack(plan).stat().st_size, rel=0.05)
