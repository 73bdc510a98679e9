from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.data.background import Backgrounds
from seg.data.frames import Frame, FrameReader, as_clip
from seg.data.preprocess import Statistics
from seg.errors import UnsupportedImage
from seg.files import write_bytes
from seg.recipe import Preprocessing
from tests.small import write_image

PLAIN = Preprocessing(shrink=1)
FITTED = Preprocessing(shrink=1, normalisation="fitted")


def a_frame(number: int, side: int = 4) -> Frame:
    return np.full((side, side), number, np.uint8), Statistics((0.0,), (1.0,), 8)


@given(st.lists(st.sampled_from(["there", "missing", "of another size"]), max_size=6))
def test_a_missing_frame_of_a_window_is_the_nearest_later_one_that_fits(kinds: list[str]) -> None:
    made = {
        "there": a_frame,
        "missing": lambda _: None,
        "of another size": lambda n: a_frame(n, 5),
    }
    earlier = [made[kind](number) for number, kind in enumerate(kinds)]
    own = a_frame(99)
    fitting = [number for number, kind in enumerate(kinds) if kind == "there"]
    expected = [next((n for n in fitting if n >= place), 99) for place in range(len(kinds))] + [99]
    assert [int(pixels[0, 0]) for pixels, _ in as_clip(earlier, own)] == expected


def test_a_frame_lacks_its_sequences_background_and_has_the_models_statistics_where_these_are_fitted(
    tmp_path: Path,
) -> None:
    seeded = np.random.default_rng(0)
    images = [seeded.integers(100, 140, (6, 8), dtype=np.uint8) for _ in range(8)]
    files = [(f"s/{number}.png", tmp_path / f"s/{number}.png") for number in range(8)]
    for (_, file), image in zip(files, images, strict=True):
        write_image(file, image)
    preprocessing = Preprocessing(shrink=1, background_every=1, background_factor=1.0, normalisation="fitted")
    fitted = Statistics((7.0,), (3.0,), 8)
    reader = FrameReader(
        preprocessing, fitted, Backgrounds(preprocessing, tmp_path / "kept", {"s": files}.__getitem__)
    )
    working, statistics = reader.read(images[3], "s")
    mean = np.stack(images).astype(np.float64).mean(0)
    assert statistics is fitted
    assert np.abs(working - (images[3] - mean + mean.mean())).max() <= 0.5 + 1e-6  # rounded


def test_an_image_of_another_depth_than_the_model_was_fitted_on_is_refused(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"")
    reader = FrameReader(FITTED, Statistics((1.0,), (1.0,), 8), Backgrounds(FITTED, tmp_path, lambda _: []))
    with pytest.raises(UnsupportedImage, match="16 bits, the model was fitted on 8"):
        reader.make(np.zeros((4, 4), np.uint16), None)
    own = FrameReader(PLAIN, None, Backgrounds(PLAIN, tmp_path, lambda _: []))
    assert own.make(np.zeros((4, 4), np.uint16), None)[1].bit_depth == 16
