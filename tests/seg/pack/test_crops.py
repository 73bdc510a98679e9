import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from seg.data.layout import Sample
from seg.data.preprocess import Statistics
from seg.errors import RequestError
from seg.pack.build import ensure_pack
from seg.pack.crops import Batch, CropSampler
from seg.pack.pack import Pack, PackedImage, PackPlan, PackSettings
from seg.recipe import Augmentation, Crops, Preprocessing, Recipe

HEIGHT, WIDTH = 96, 128
CROPS = Crops(size_px=(32, 64), per_image=3, flip_rows=True, flip_columns=True)


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Three 16-bit images whose pixels say where they are; their masks are a function of the pixel alone.

    Two have a square of class 1, of 9 px and of 1 px on a point of the search grid; the third has none.
    """
    places = (np.arange(HEIGHT)[:, None] * WIDTH + np.arange(WIDTH)).astype(np.uint16)
    samples = []
    for number in range(3):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        if number < 2:
            top, left, side = ((0, 0, 9), (88, 112, 1))[number]
            mask[top : top + side, left : left + side] = 1
        image, label = tmp_path / f"{number}.png", tmp_path / f"{number}m.png"
        Image.fromarray(places + np.uint16(number * HEIGHT * WIDTH)).save(image)
        Image.fromarray(mask).save(label)
        samples.append(Sample(image.name, image, label, "s"))
    return build_pack(samples)


def build_pack(samples: list[Sample], channels: Literal[1, 3] = 1) -> Pack:
    settings = PackSettings(
        preprocessing=Preprocessing(channels=channels),
        label_map=(),
        classes=("background", "disc"),
        own_masks=False,
    )
    return Pack(ensure_pack(PackPlan(samples=tuple(samples), fingerprint="f", settings=settings)))


def make_sampler(pack: Pack, crops: Crops = CROPS, batch: int = 4, seed: int = 5) -> CropSampler:
    return CropSampler(pack, Recipe(name="x", crops=crops, batch=batch), seed=seed, fitted=None)


def list_crops(batch: Batch) -> list[tuple[bytes, bytes]]:
    return [
        (image.numpy().tobytes(), truth.numpy().tobytes())
        for image, truth in zip(batch.images, batch.truth, strict=True)
    ]


def test_a_crop_is_a_window_of_its_image_flipped_with_its_mask(pack: Pack) -> None:
    sampler, flips = make_sampler(pack), set()
    for epoch in range(1, 9):
        for step in range(sampler.steps_per_epoch):
            batch = sampler.batch_at(epoch, step)
            for pixels, truth in zip(batch.images[:, 0].to(torch.int64), batch.truth, strict=True):
                number = int(pixels[0, 0]) // (HEIGHT * WIDTH)
                rows, columns = np.divmod(pixels.numpy() - number * HEIGHT * WIDTH, WIDTH)
                down, across = (int(np.sign(line[1] - line[0])) for line in (rows[:, 0], columns[0]))
                flips.add((down, across))
                assert np.all(np.diff(rows, axis=0) == down)
                assert np.all(np.diff(columns, axis=1) == across)
                np.testing.assert_array_equal(truth, pack[number].mask[rows, columns])
    assert flips == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


@pytest.mark.parametrize("flip_rows", [False, True])
@pytest.mark.parametrize("flip_columns", [False, True])
def test_only_the_flips_asked_for_happen(pack: Pack, flip_rows: bool, flip_columns: bool) -> None:
    crops = Crops(size_px=(32, 32), per_image=8, flip_rows=flip_rows, flip_columns=flip_columns)
    images = make_sampler(pack, crops, batch=24).batch_at(1, 0).images[:, 0].to(torch.int64)
    assert set(images.diff(dim=1).unique().tolist()) == ({WIDTH, -WIDTH} if flip_rows else {WIDTH})
    assert set(images.diff(dim=2).unique().tolist()) == ({1, -1} if flip_columns else {1})


def test_a_batch_depends_on_seed_epoch_and_step_alone(pack: Pack) -> None:
    batches = {
        key: list_crops(make_sampler(pack, seed=key[0]).batch_at(*key[1:]))
        for key in [(5, 1, 0), (5, 1, 1), (5, 2, 0), (6, 1, 0)]
    }
    assert len({tuple(batch) for batch in batches.values()}) == 4
    sampler = make_sampler(pack)
    assert list_crops(sampler.batch_at(1, 1)) == batches[5, 1, 1]  # in any order of asking
    assert list_crops(sampler.batch_at(2, 0)) == batches[5, 2, 0]
    assert list_crops(sampler.batch_at(1, 0)) == batches[5, 1, 0]


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_see_the_batch_of_one(pack: Pack, world_size: int) -> None:
    sampler = make_sampler(pack)
    whole = list_crops(sampler.batch_at(3, 1))
    shares = [list_crops(sampler.batch_at(3, 1, rank=k, world_size=world_size)) for k in range(world_size)]
    assert sorted(crop for share in shares for crop in share) == sorted(whole)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_epoch_takes_no_sample_twice(pack: Pack) -> None:
    sampler = make_sampler(pack)
    assert (sampler.samples_per_epoch, sampler.steps_per_epoch) == (9, 2)
    crops = [crop for step in range(2) for crop in list_crops(sampler.batch_at(1, step))]
    assert len(set(crops)) == 8
    assert make_sampler(pack, batch=50).batch == 9  # no more than there are


def test_crops_on_an_object_always_show_it_and_reach_the_corners(pack: Pack) -> None:
    crops = Crops(size_px=(32, 32), per_image=60, on_object_share=1.0)
    sampler = make_sampler(pack, crops, batch=180)
    batch = sampler.batch_at(1, 0)
    number = batch.images[:, 0, 0, 0].to(torch.int64) // (HEIGHT * WIDTH)
    shows = (batch.truth == 1).flatten(1).any(1)
    assert shows[number < 2].all()
    assert not shows[number == 2].any()  # nothing to show: anywhere
    assert len(batch.images[number == 2].flatten(1)[:, 0].unique()) > 20


def test_crops_anywhere_reach_every_corner(pack: Pack) -> None:
    crops = Crops(size_px=(64, 96), per_image=2000, flip_columns=False)
    images = make_sampler(pack, crops, batch=6000).batch_at(1, 0).images
    corners = images[:, 0, 0, 0].to(torch.int64) % (HEIGHT * WIDTH)
    assert {0, 32, 32 * WIDTH, 32 * WIDTH + 32} <= set(corners.tolist())
    assert corners.max() == 32 * WIDTH + 32


@pytest.mark.parametrize("fitted", [None, Statistics((1000.0,), (50.0,), 16)])
def test_inputs_are_normalised_by_their_images_or_the_fitted_statistics(
    pack: Pack, fitted: Statistics | None
) -> None:
    batch = CropSampler(pack, Recipe(name="x", crops=CROPS, batch=9), seed=0, fitted=fitted).batch_at(1, 0)
    images, truth = batch.to_inputs(torch.device("cpu"))
    assert truth is batch.truth
    assert images.is_contiguous(memory_format=torch.channels_last)
    for stored, normalised in zip(batch.images, images, strict=True):
        row = pack[int(stored[0, 0, 0]) // (HEIGHT * WIDTH)]
        used = fitted or row.statistics
        expected = (stored.numpy().astype(np.float64) - used.mean[0]) / used.std[0]
        np.testing.assert_allclose(normalised, expected, rtol=1e-4, atol=1e-4)  # float32 of 16-bit values


def test_a_crop_larger_than_an_image_is_refused(pack: Pack) -> None:
    with pytest.raises(RequestError, match=r"size_px is \(128, 32\) but 0.png has \(96, 128\) pixels"):
        make_sampler(pack, Crops(size_px=(128, 32)))


def write_sequences(folder: Path, *, unlabelled: tuple[int, ...] = ()) -> Pack:
    """Two sequences of four flat frames; a frame's intensity is 10 x sequence + frame."""
    samples = []
    for sequence in range(2):
        for frame in range(4):
            image, label = folder / f"{sequence}-{frame}.png", folder / f"{sequence}-{frame}m.png"
            Image.fromarray(np.full((64, 64), 10 * sequence + frame, np.uint8)).save(image)
            Image.fromarray(np.zeros((64, 64), np.uint8)).save(label)
            samples.append(Sample(image.name, image, None if frame in unlabelled else label, f"s{sequence}"))
    return build_pack(samples)


def test_a_window_ends_with_its_own_frame_and_repeats_the_first(tmp_path: Path) -> None:
    recipe = Recipe(name="x", crops=Crops(size_px=(32, 32)), batch=8, frames=3)
    batch = CropSampler(write_sequences(tmp_path), recipe, seed=1, fitted=None).batch_at(1, 0)
    assert batch.images.shape == (8, 3, 1, 32, 32)
    assert batch.mean.shape == (8, 3, 1)
    seen = sorted(tuple(int(frame) for frame in window[:, 0, 0, 0]) for window in batch.images)
    expected = [(0, 0, 0), (0, 0, 1), (0, 1, 2), (1, 2, 3)]
    assert seen == sorted(expected + [tuple(10 + k for k in window) for window in expected])
    assert batch.to_inputs(torch.device("cpu"))[0].shape == (8, 3, 1, 32, 32)


def test_frames_without_a_label_are_seen_but_not_drawn(tmp_path: Path) -> None:
    recipe = Recipe(name="x", crops=Crops(size_px=(32, 32)), batch=8, frames=2)
    sampler = CropSampler(write_sequences(tmp_path, unlabelled=(0, 2)), recipe, seed=1, fitted=None)
    assert sampler.samples_per_epoch == 4
    batch = sampler.batch_at(1, 0)
    seen = sorted(tuple(int(frame) for frame in window[:, 0, 0, 0]) for window in batch.images)
    assert seen == [(0, 1), (2, 3), (10, 11), (12, 13)]


def test_augmented_crops_follow_from_the_seed_and_stay_with_their_truth(pack: Pack) -> None:
    recipe = Recipe(
        name="x", crops=CROPS, batch=9, augmentation=Augmentation(brightness=0.5, rotate_degrees=9)
    )
    batches = [CropSampler(pack, recipe, seed=seed, fitted=None).batch_at(1, 0) for seed in (0, 0, 1)]
    assert batches[0].images.dtype == torch.float32
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].truth, batches[1].truth)
    assert not torch.equal(batches[0].images, batches[2].images)
    assert (batches[0].truth == 255).any()


def test_a_crop_that_is_made_smaller_shows_more_of_its_image(pack: Pack) -> None:
    crops = Crops(size_px=(32, 32), per_image=40, flip_rows=True)
    recipe = Recipe(name="x", crops=crops, batch=120, augmentation=Augmentation(scale=(0.5, 0.5)))
    batch = CropSampler(pack, recipe, seed=0, fitted=None).batch_at(1, 0)
    known = batch.truth != 255
    # 63 of 96 x 128 pixels, about where 32 x 32 fit: 6 % of their rows and 4 % of their columns lie outside
    assert known.float().mean().item() == pytest.approx(0.94 * 0.96, abs=0.03)
    down, across = (batch.images[:, 0].diff(dim=axis).abs() for axis in (1, 2))
    assert (down.median(), across.median()) == (2 * WIDTH, 2)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(rotate_degrees=9, contrast=0.5)])
@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (3, 2), (2, 50)])
def test_batches_are_those_of_batch_at_in_order_whatever_prepares_them(
    pack: Pack, augmentation: Augmentation, threads: int, ahead: int
) -> None:
    recipe = Recipe(name="x", crops=CROPS, batch=2, augmentation=augmentation)
    sampler = CropSampler(pack, recipe, seed=5, fitted=None, threads=threads, ahead=ahead)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    batches = list(sampler.batches(2, rank=1, world_size=2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(batches) == sampler.steps_per_epoch == 4
    for step, batch in enumerate(batches):
        expected = make_sampler(pack, batch=2) if augmentation == Augmentation() else sampler
        plain = expected.batch_at(2, step, rank=1, world_size=2)
        assert list_crops(batch) == list_crops(plain)
        assert torch.equal(batch.mean, plain.mean)
        assert torch.equal(batch.std, plain.std)
        assert batch.names == plain.names


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("crops")]


def test_threads_end_with_their_iterator_also_half_way(pack: Pack) -> None:
    sampler = make_sampler(pack, batch=1)
    batches = sampler.batches(1)
    next(batches)
    assert loader_threads()
    del batches
    assert loader_threads() == []
    list(sampler.batches(1))
    assert loader_threads() == []


def test_an_iterator_that_is_still_held_does_not_keep_a_process_from_ending(pack: Pack) -> None:
    program = (
        "from pathlib import Path; from seg.pack.crops import CropSampler; from seg.pack.pack import Pack;"
        "from seg.recipe import Crops, Recipe;"
        "recipe = Recipe(name='x', batch=1, crops=Crops(size_px=(32, 32)));"
        f"sampler = CropSampler(Pack(Path({str(pack.path)!r})), recipe, seed=0, fitted=None);"
        "batches = sampler.batches(1); print(len(next(batches).truth))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


class OneMissing(Pack):
    """A pack of which an image cannot be read any more, as on storage that went away."""

    def clip(self, row: int, frames: int) -> list[PackedImage]:
        if row == 1:
            raise OSError("image 1 is gone")
        return super().clip(row, frames)


def test_what_goes_wrong_in_a_thread_comes_out_at_its_step(pack: Pack) -> None:
    recipe = Recipe(name="x", batch=1, crops=Crops(size_px=(32, 32)))
    order = [make_sampler(pack, recipe.crops, batch=1).batch_at(1, step).names for step in range(3)]
    bad_step = order.index(("1.png",))
    batches = CropSampler(OneMissing(pack.path), recipe, seed=5, fitted=None).batches(1)
    for _ in range(bad_step):
        next(batches)
    with pytest.raises(OSError, match="image 1 is gone"):
        next(batches)
    assert loader_threads() == []


def test_a_batch_names_the_images_of_the_whole_step(pack: Pack) -> None:
    sampler = make_sampler(pack)
    for step in range(sampler.steps_per_epoch):
        whole = sampler.batch_at(1, step)
        numbers = (whole.images[:, 0, 0, 0].to(torch.int64) // (HEIGHT * WIDTH)).tolist()
        assert whole.names == tuple(f"{number}.png" for number in numbers)
        assert all(sampler.batch_at(1, step, rank=k, world_size=3).names == whole.names for k in range(3))


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 9])
def test_parts_of_a_batch_are_its_crops_in_order_none_empty(pack: Pack, parts: int) -> None:
    batch = make_sampler(pack, batch=4).batch_at(1, 0)
    split = batch.split(parts)
    sizes = [len(part.truth) for part in split]
    assert len(sizes) == min(parts, 4)
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1
    assert [crop for part in split for crop in list_crops(part)] == list_crops(batch)
    assert torch.equal(torch.cat([part.mean for part in split]), batch.mean)
    assert torch.equal(torch.cat([part.std for part in split]), batch.std)
    assert all(part.names == batch.names for part in split)


def test_crops_of_8_and_of_16_bits_share_a_batch_with_their_values(tmp_path: Path) -> None:
    samples = []
    for number, values in enumerate((np.full((64, 64), 200, np.uint8), np.full((64, 64), 60000, np.uint16))):
        image, label = tmp_path / f"{number}.png", tmp_path / f"{number}m.png"
        Image.fromarray(values).save(image)
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(label)
        samples.append(Sample(image.name, image, label, "s"))
    batch = make_sampler(build_pack(samples), Crops(size_px=(32, 32)), batch=2).batch_at(1, 0)
    assert sorted(batch.images.flatten(1)[:, 0].tolist()) == [200, 60000]
    assert batch.images.dtype == torch.uint16


@pytest.mark.parametrize("wide", [False, True])
def test_crops_of_colour_are_windows_flipped_with_their_mask(tmp_path: Path, wide: bool) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 65536 if wide else 256, (48, 56, 3), np.uint16 if wide else np.uint8)
    mask = random.integers(0, 2, (48, 56), np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), pixels)
    Image.fromarray(mask).save(tmp_path / "m.png")
    pack = build_pack([Sample("a.png", tmp_path / "a.png", tmp_path / "m.png", "s")], channels=3)
    crops = Crops(size_px=(32, 32), per_image=40, flip_rows=True)
    recipe = Recipe(name="x", crops=crops, batch=40, preprocessing=Preprocessing(channels=3))
    batch = CropSampler(pack, recipe, seed=0, fitted=None).batch_at(1, 0)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)  # as the network wants them
    windows = {}
    for down, across, top, left in np.ndindex(2, 2, 17, 25):
        area = np.s_[top : top + 32, left : left + 32]
        truth, colours = mask[area], pixels[area][..., ::-1]  # OpenCV wrote blue first
        step = np.s_[:: -1 if down else 1, :: -1 if across else 1]
        windows[truth[step].tobytes()] = colours[step].transpose(2, 0, 1)
    for image, truth in zip(batch.images, batch.truth, strict=True):
        np.testing.assert_array_equal(image.numpy(), windows[truth.numpy().tobytes()])
