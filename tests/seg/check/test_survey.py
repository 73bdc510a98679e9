from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from seg.check.find import find_data
from seg.check.survey import ImageFacts, LabelFacts, measure_image, measure_label, spread, survey
from seg.data.formats.header import Header
from seg.data.images import ImageFiles
from tests.conftest import WriteArchive


def list_objects(ids: NDArray[np.uint8]) -> Counter[tuple[int, int, float]]:
    """Id, area and width of each 8-connected object, by a flood and by all distances."""
    left = {(int(y), int(x)) for y, x in np.argwhere(ids)}
    found = Counter[tuple[int, int, float]]()
    while left:
        seed = left.pop()
        flood, part = [seed], {seed}
        while flood:
            y, x = flood.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            near = {place for place in near if ids[place] == ids[seed]}
            left -= near
            part |= near
            flood += near
        outside = np.argwhere(np.pad(ids != ids[seed], 1, constant_values=True)) - 1
        reach = max(np.sqrt(((outside - place) ** 2).sum(1).min()) for place in part)
        found[int(ids[seed]), len(part), round(2 * float(reach) - 1, 3)] += 1
    return found


def test_objects_are_those_of_a_flood_and_as_wide_as_the_circle_they_hold() -> None:
    random = np.random.default_rng(0)
    ids = np.kron(random.choice([0, 0, 0, 1, 2, 200], (9, 12)), np.ones((3, 3))).astype(np.uint8)
    ids[:, 7] = 0
    facts = measure_label(ids)
    ours = Counter(zip(facts.ids.tolist(), facts.areas.tolist(), facts.widths.round(3).tolist(), strict=True))
    assert ours == list_objects(ids)
    assert facts.pixels.tolist() == [int((ids == number).sum()) for number in range(256)]


@pytest.mark.parametrize("diameter", [5, 21, 60])
def test_a_disc_is_as_wide_as_its_diameter_and_a_line_as_its_thickness(diameter: int) -> None:
    rows, columns = np.ogrid[:100, :100]
    disc = (np.hypot(rows - 50, columns - 50) <= diameter / 2).astype(np.uint8)
    assert measure_label(disc).widths == pytest.approx([diameter], abs=1.5)  # pixels are squares
    line = np.zeros((100, 100), np.uint8)
    line[:, 40:43] = 255
    assert measure_label(line).widths.tolist() == [3]


def test_a_label_without_objects_has_none() -> None:
    facts = measure_label(np.zeros((4, 5), np.uint8))
    assert (len(facts.ids), len(facts.areas), len(facts.widths), facts.pixels[0]) == (0, 0, 0, 20)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_is_measured_as_numpy_does(dtype: type) -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 200, (64, 96)).astype(dtype)
    pixels[:8] = 250
    facts = measure_image(Header("PNG", 64, 96, 1, 8), pixels, 1)
    assert (facts.highest, facts.at_highest, facts.is_gray, facts.is_constant) == (250, 8 / 64, True, False)
    blocks = pixels.reshape(32, 2, 32, 3).mean((1, 3))
    np.testing.assert_allclose(facts.thumbnail, blocks, rtol=1e-5)  # float32
    assert measure_image(Header("PNG", 64, 96, 1, 8), np.full((64, 96), 7, dtype), 1).is_constant


def test_colours_are_gray_where_they_are_equal() -> None:
    gray = np.random.default_rng(2).integers(0, 255, (8, 8, 1)).astype(np.uint8)
    colour = np.repeat(gray, 3, 2)
    header = Header("PNG", 8, 8, 3, 8)
    assert measure_image(header, colour, 1).is_gray
    colour[3, 4, 2] ^= 1
    assert not measure_image(header, colour, 1).is_gray


def test_of_many_images_a_sample_is_spread_from_the_first_to_the_last(write_archive: WriteArchive) -> None:
    samples = find_data(write_archive(sequences=3, frames=4)).data.samples
    chosen = spread(samples, 5)
    places = [samples.index(sample) for sample in chosen]
    assert (places[0], places[-1], len(set(places))) == (0, 11, 5)
    assert set(np.diff(places)) <= {2, 3}
    assert spread(samples, 100) == list(samples)
    assert spread(samples, 0) == []


def test_each_image_is_read_once_and_what_is_damaged_is_named(
    write_archive: WriteArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_archive(sequences=2, frames=3)
    (root / "images/s0/1.png").write_bytes(b"no image")
    (root / "masks/s1/0.png").write_bytes(b"no mask")
    (root / "masks/s1/2.png").unlink()
    opened, read = list[str](), ImageFiles.open

    def note(files: ImageFiles, file: Path | str, page: int | None = None) -> object:
        opened.append(str(file))
        return read(files, file, page)

    monkeypatch.setattr(ImageFiles, "open", note)
    looks = {look.sample.name: look for look in survey(find_data(root))}
    masks = [root / f"masks/{name}.png" for name in ("s0/0", "s0/2", "s1/0", "s1/1")]
    assert sorted(opened) == sorted(map(str, [*root.glob("images/*/*.png"), *masks]))
    assert (
        looks["s0/1.png"].image
        == f"{root}/images/s0/1.png: the content is no PNG, BMP, TIFF, JPEG or NPY image"
    )
    assert looks["s0/1.png"].label is None
    assert "masks/s1/0.png is no image" in str(looks["s1/0.png"].label)
    assert looks["s1/2.png"].label is None
    sound = [look for look in looks.values() if isinstance(look.label, LabelFacts)]
    assert sum(isinstance(look.image, ImageFacts) for look in looks.values()) == 5
    assert [look.sample.name for look in sound] == ["s0/0.png", "s0/2.png", "s1/1.png"]
    pictures = {look.sample.name: look.picture for look in sound if look.picture}
    assert list(pictures) == ["s0/0.png", "s1/1.png"]  # of four the others are damaged
    assert all(panel.shape[:2] == ids.shape == (320, 480) for panel, ids in pictures.values())


def test_a_limit_holds_for_images_with_and_without_labels_together(write_archive: WriteArchive) -> None:
    root = write_archive(sequences=2, frames=4)
    (root / "masks/s0/1.png").unlink()
    looks = survey(find_data(root), limit=4)
    assert [look.sample.label is not None for look in looks] == [True] * 4
    looks = survey(find_data(root), limit=8)
    assert [look.sample.name for look in looks if look.sample.label is None] == ["s0/1.png"]
