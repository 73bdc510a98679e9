from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seg.data.crops import Batch, CropSampler
from seg.data.layout import Sample
from seg.data.pack import Pack, PackSettings, ensure_pack
from seg.data.preprocess import Statistics
from seg.errors import RequestError
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
    settings = PackSettings(preprocessing=Preprocessing(), label_map=(), num_classes=2, own_masks=False)
    return Pack(ensure_pack(tuple(samples), "f", settings))


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


def test_without_flips_nothing_is_flipped(pack: Pack) -> None:
    crops = Crops(size_px=(32, 32), per_image=8, flip_rows=False, flip_columns=False)
    images = make_sampler(pack, crops, batch=24).batch_at(1, 0).images[:, 0].to(torch.int64)
    assert (images.diff(dim=1) == WIDTH).all()
    assert (images.diff(dim=2) == 1).all()


def test_a_batch_depends_on_seed_epoch_and_step_alone(pack: Pack) -> None:
    batches = {
        key: list_crops(make_sampler(pack, seed=key[0]).batch_at(*key[1:]))
        for key in [(5, 1, 0), (5, 1, 1), (5, 2, 0), (6, 1, 0)]
    }
    assert len({tuple(batch) for batch in batches.values()}) == 4
    sampler = make_sampler(pack)
    assert list_crops(sampler.batch_at(1, 1)) == batches[5, 1, 1]  # in any order of asking
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
    settings = PackSettings(preprocessing=Preprocessing(), label_map=(), num_classes=2, own_masks=False)
    return Pack(ensure_pack(tuple(samples), f"sequences {unlabelled}", settings))


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
