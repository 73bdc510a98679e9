import hashlib
import multiprocessing
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.fingerprint import data_fingerprint
from seg.data.images import decode_image
from seg.data.layout import Sample, open_plain
from seg.data.pack import Pack, PackSettings, ensure_pack
from seg.data.preprocess import image_statistics, preprocess
from seg.errors import RequestError
from seg.files import replacing
from seg.recipe import Preprocessing
from tests.conftest import WriteArchive

SETTINGS = PackSettings(preprocessing=Preprocessing(shrink=3), label_map=(), num_classes=2, own_masks=True)


def find_samples(root: Path) -> tuple[tuple[Sample, ...], str]:
    samples = open_plain(root).samples
    return samples, data_fingerprint(samples, root)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shrink", [1, 2.3, 3])
@pytest.mark.parametrize("own_masks", [True, False])
def test_rows_are_what_preprocessing_gives(
    write_archive: WriteArchive, channels: int, shrink: float, own_masks: bool
) -> None:
    samples, fingerprint = find_samples(write_archive(size=(61, 94)))
    preprocessing = Preprocessing(channels=channels, shrink=shrink)
    settings = replace(SETTINGS, preprocessing=preprocessing, own_masks=own_masks)
    pack = Pack(ensure_pack(samples, fingerprint, settings))
    assert len(pack) == len(samples)
    for sample, row in zip(samples, pack.images(), strict=True):
        image = decode_image(sample.image.read_bytes())
        mask = np.asarray(Image.open(sample.label))
        working = preprocess(image, preprocessing)
        np.testing.assert_array_equal(row.pixels, working)
        assert (row.name, row.sequence, row.own_size) == (sample.name, sample.sequence, image.shape)
        assert row.statistics == image_statistics(working)
        assert row.mask.shape == working.shape[:2]
        if own_masks:
            np.testing.assert_array_equal(row.own_mask, mask)
        else:
            assert row.own_mask is None
        if shrink == 1:
            np.testing.assert_array_equal(row.mask, mask)


def test_a_16_bit_image_stays_16_bit(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=1, frames=1)
    stored = np.random.default_rng(0).integers(0, 65536, (64, 96), dtype=np.uint16)
    Image.fromarray(stored).save(root / "images/s0/0.png")
    settings = replace(SETTINGS, preprocessing=Preprocessing())
    row = Pack(ensure_pack(*find_samples(root), settings))[0]
    assert row.pixels.dtype == np.uint16
    np.testing.assert_array_equal(row.pixels, stored)
    assert row.statistics.bit_depth == 16


def test_each_page_of_a_tiff_is_packed_as_itself(tmp_path: Path) -> None:
    pages = [np.full((40, 50), 10 * (k + 1), np.uint8) for k in range(3)]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "classes.txt").write_text("a\nb\n")
    first, *rest = map(Image.fromarray, pages)
    first.save(tmp_path / "images/t.tif", save_all=True, append_images=rest)
    for number, page in enumerate(pages):
        Image.fromarray(page // 30).save(tmp_path / f"masks/t.tif#{number}.png")
    pack = Pack(ensure_pack(*find_samples(tmp_path), SETTINGS))
    assert [(row.name, row.pixels[0, 0], row.mask[0, 0]) for row in pack.images()] == [
        ("t.tif#0", 10, 0), ("t.tif#1", 20, 0), ("t.tif#2", 30, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("kept", [0, 0.3, 0.99])
def test_a_torn_pack_is_built_again(write_archive: WriteArchive, kept: float) -> None:
    samples, fingerprint = find_samples(write_archive())
    path = ensure_pack(samples, fingerprint, SETTINGS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    assert ensure_pack(samples, fingerprint, SETTINGS) == path
    assert path.read_bytes() == whole  # and two builds write the same bytes


def test_a_whole_pack_is_not_built_again(write_archive: WriteArchive) -> None:
    samples, fingerprint = find_samples(write_archive())
    path = ensure_pack(samples, fingerprint, SETTINGS)
    for sample in samples:
        sample.image.unlink()
    assert ensure_pack(samples, fingerprint, SETTINGS) == path


def test_whatever_changes_a_row_changes_the_pack(write_archive: WriteArchive) -> None:
    samples, fingerprint = find_samples(write_archive())
    swapped = (replace(samples[0], label=samples[1].label), replace(samples[1], label=samples[0].label))
    paths = {
        ensure_pack(samples, fingerprint, SETTINGS),
        ensure_pack(samples[:3], fingerprint, SETTINGS),
        ensure_pack((*swapped, *samples[2:]), fingerprint, SETTINGS),
        ensure_pack((replace(samples[0], sequence="x"), *samples[1:]), fingerprint, SETTINGS),
        ensure_pack(samples, fingerprint[::-1], SETTINGS),
        ensure_pack(samples, fingerprint, replace(SETTINGS, label_map=((1, 255),))),
        ensure_pack(samples, fingerprint, replace(SETTINGS, num_classes=3)),
        ensure_pack(samples, fingerprint, replace(SETTINGS, own_masks=False)),
        ensure_pack(samples, fingerprint, replace(SETTINGS, preprocessing=Preprocessing(shrink=2))),
    }
    assert len(paths) == 9


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_no_pack(write_archive: WriteArchive) -> None:
    samples, fingerprint = find_samples(write_archive())
    path = ensure_pack(samples, fingerprint, SETTINGS)
    path.unlink()
    process = multiprocessing.get_context("spawn").Process(target=write_half, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not path.exists()
    assert len(Pack(ensure_pack(samples, fingerprint, SETTINGS))) == len(samples)


def test_a_bad_image_or_label_is_refused_by_name(write_archive: WriteArchive, own_cache: Path) -> None:
    root = write_archive()
    samples, fingerprint = find_samples(root)
    whole = samples[1].image.read_bytes()
    samples[1].image.write_bytes(whole[:-40])
    with pytest.raises(RequestError, match=r"images/s0/1.png: the file ends after .*; mend or remove it"):
        ensure_pack(samples, fingerprint, SETTINGS)
    samples[1].image.write_bytes(whole)
    samples[1].label.write_bytes(whole)
    with pytest.raises(RequestError, match=r"data: .*images/s0/1.png: label .*masks/s0/1.png holds class id"):
        ensure_pack(samples, fingerprint, SETTINGS)
    assert not list((own_cache / "packs").iterdir())


def test_a_pack_travels_as_its_path(write_archive: WriteArchive) -> None:
    pack = Pack(ensure_pack(*find_samples(write_archive()), SETTINGS))
    sent = pickle.dumps(pack)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent)[0].pixels, pack[0].pixels)  # noqa: S301


def test_the_fingerprint_is_the_hash_that_the_design_gives(write_archive: WriteArchive) -> None:
    root = write_archive()
    samples, fingerprint = find_samples(root)
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.png"))
    lines = [f"{name}\0{hashlib.sha256((root / name).read_bytes()).hexdigest()}\n" for name in files]
    assert fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fingerprint == data_fingerprint(reversed(samples), root)
    moved = write_archive("elsewhere")
    assert find_samples(moved)[1] == fingerprint
    (moved / "masks/s0/0.png").write_bytes(b"other")
    assert find_samples(moved)[1] != fingerprint
