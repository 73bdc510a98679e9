from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.background import Background, Backgrounds, FrameFile, choose_frames, mean_frame
from seg.data.images import ImageFiles
from seg.data.preprocess import preprocess
from seg.errors import DataWarning, RequestError, UnsupportedImage
from seg.recipe import Preprocessing

EVERY_SECOND = Preprocessing(background_every=2, background_factor=0.9)


def write_frames(folder: Path, count: int, dtype: type = np.uint8, seed: int = 0) -> list[FrameFile]:
    random = np.random.default_rng(seed)
    frames = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(random.integers(40, 200, (20, 30), dtype=dtype)).save(file)
        frames.append((file.name, file))
    return frames


def read(frame: FrameFile) -> NDArray[np.generic]:
    return np.asarray(Image.open(frame[1]))


@given(st.integers(1, 300), st.integers(1, 40))
def test_k_is_the_largest_that_takes_eight_frames(count: int, every: int) -> None:
    chosen = choose_frames(count, every)
    assert list(chosen) == list(range(0, count, chosen.step))
    assert len(chosen) >= min(8, count)
    assert chosen.step == every or len(range(0, count, chosen.step + 1)) < 8


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_mean_is_that_of_float64(tmp_path: Path, dtype: type) -> None:
    frames = write_frames(tmp_path, 25, dtype)
    mean, used = mean_frame(frames, read(frames[0]), 3, ImageFiles().decode)
    assert used == tuple(f"{k}.png" for k in range(0, 25, 3))
    expected = np.mean([read(frames[k]).astype(np.float64) for k in range(0, 25, 3)], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-15)  # one division of an exact sum


def test_frames_that_do_not_fit_are_left_out_and_named(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 20)
    frames[4][1].write_bytes(b"")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(frames[8][1])
    frames[12][1].unlink()
    with pytest.warns(
        DataWarning, match=r"3 frames are left out.*4.png: .*8.png: it is 5x5x1-8bit, not 20x30"
    ):
        mean, used = mean_frame(frames, read(frames[0]), 2, ImageFiles().decode)
    assert used == tuple(f"{k}.png" for k in range(20) if k not in (4, 8, 12))  # 2 gave seven
    expected = np.mean([read(frame).astype(np.float64) for frame in frames if frame[0] in used], axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_keeps_its_level_and_loses_what_stands_still(tmp_path: Path, dtype: type) -> None:
    still = 80 + 60 * np.sin(np.arange(30) / 3)
    frames = []
    for number in range(16):
        image = np.tile(still, (20, 1)).astype(dtype)
        image[number, 5] += 50  # what moves
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        frames.append((f"{number}.png", tmp_path / f"{number}.png"))
    settings = Preprocessing(background_every=1, background_factor=1.0)
    backgrounds = Backgrounds(settings, tmp_path / "kept", lambda _: frames)
    image = read(frames[3])
    background = backgrounds.find("s", image)
    assert background is not None
    assert background.num_frames == 16
    found = preprocess(image, settings, background).astype(np.float64)
    mean = np.mean([read(frame).astype(np.float64) for frame in frames], axis=0)
    assert np.abs(found - (image - mean + mean.mean())).max() <= 0.51  # rounded to the nearest
    rest = np.delete(found.ravel(), 3 * 30 + 5)
    assert np.ptp(rest) <= 5  # a sixteenth of what moved, in its column
    assert found[3, 5] - rest.mean() > 40


def test_subtraction_saturates_at_both_ends() -> None:
    shift = np.array([[10.6, -10.6, 0.4]], np.float32)
    assert Background(shift, 8).subtract(np.array([[5, 250, 100]], np.uint8)).tolist() == [[0, 255, 100]]
    assert Background(shift, 8).subtract(np.array([[5, 65530, 300]], np.uint16)).tolist() == [[0, 65535, 300]]


def test_a_background_is_measured_once_and_later_frames_do_not_change_it(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 10)
    image = read(frames[0])
    asked = []

    def frames_of(sequence: str) -> list[FrameFile]:
        asked.append(sequence)
        return frames

    first = Backgrounds(EVERY_SECOND, tmp_path / "kept", frames_of).find("s", image)
    for _, file in frames:
        file.write_bytes(b"gone")
    again = Backgrounds(EVERY_SECOND, tmp_path / "kept", frames_of)
    for _ in range(2):
        found = again.find("s", image)
        assert first is not None
        assert found is not None
        np.testing.assert_array_equal(found.shift, first.shift)
    assert asked == ["s"]
    assert len(list((tmp_path / "kept").iterdir())) == 1  # whole, no temporary file beside it


def test_sizes_depths_and_sequences_have_backgrounds_of_their_own(tmp_path: Path) -> None:
    small, deep = tmp_path / "small", tmp_path / "deep"
    small.mkdir()
    deep.mkdir()
    groups = {"a": write_frames(small, 8), "b": write_frames(deep, 8, np.uint16)}
    backgrounds = Backgrounds(EVERY_SECOND, tmp_path / "kept", groups.__getitem__)
    for sequence, frames in groups.items():
        found = backgrounds.find(sequence, read(frames[0]))
        mean = np.mean([read(frame).astype(np.float64) for frame in frames], axis=0)
        assert found is not None
        np.testing.assert_allclose(found.shift, 0.9 * (mean - mean.mean()), rtol=1e-5, atol=1e-2)  # float32


def test_fewer_than_four_frames_are_no_background_and_that_is_said(tmp_path: Path) -> None:
    frames = write_frames(tmp_path, 3)
    backgrounds = Backgrounds(EVERY_SECOND, tmp_path / "kept", lambda _: frames)
    with pytest.warns(DataWarning, match="sequence 's' has 3 frames fit for a background, fewer than 4"):
        assert backgrounds.find("s", read(frames[0])) is None
    assert backgrounds.find("s", read(frames[0])) is None  # said once


def test_without_a_rule_nothing_is_read(tmp_path: Path) -> None:
    backgrounds = Backgrounds(Preprocessing(), tmp_path / "kept", lambda _: pytest.fail("asked for frames"))
    assert backgrounds.find("s", np.zeros((4, 4), np.uint8)) is None


def test_a_measured_background_serves_every_sequence(tmp_path: Path) -> None:
    (name, file), *_ = write_frames(tmp_path, 1)
    backgrounds = Backgrounds(EVERY_SECOND, tmp_path / "kept", lambda _: pytest.fail("asked"), file)
    image = read((name, file))
    found = backgrounds.find("any", image)
    assert found is not None
    np.testing.assert_allclose(found.shift, 0.9 * (image - image.mean()), atol=1e-4)  # float32
    with pytest.raises(UnsupportedImage, match="the image is 4x4x1-8bit, the background given 20x30x1-8bit"):
        backgrounds.find("any", np.zeros((4, 4), np.uint8))


def test_a_measured_background_that_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("no image")
    with pytest.raises(RequestError, match=r"`background=.*b.png` cannot be read.*give an image"):
        Backgrounds(EVERY_SECOND, tmp_path, lambda _: [], tmp_path / "b.png")
