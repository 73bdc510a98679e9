import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from seg.errors import RequestError
from seg.figures.plots import Example, draw_predictions
from seg.report.figures import choose_images, draw_lots, write_figures
from seg.report.survey import read_scores
from seg.requests import ReportRequest
from seg.storage import Place, as_place
from tests.cluster.scores import make_row, random_rows, write_scores
from tests.small import write_image

CLASSES = ("background", "disc", "dust")
NAMES = [f"s{number % 2}/{number}.png" for number in (2, 10, 11, 1)]
"""In the order in which they were scored."""
NATURAL = ["s0/2.png", "s0/10.png", "s1/1.png", "s1/11.png"]
Arrays = dict[str, tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint8]]]


@pytest.fixture
def arrays() -> Arrays:
    """Pixels, truth and prediction of each image."""
    found: Arrays = {}
    for number, name in enumerate(NAMES):
        random = np.random.default_rng(number)
        truth, ids = random.integers(0, 3, (2, 20, 30), dtype=np.uint8)
        truth[:2] = 255
        found[name] = random.integers(0, 4000, (20, 30), np.uint16), truth, ids
    return found


@pytest.fixture
def place(arrays: Arrays, tmp_path: Path) -> Place:
    """A scores folder of these images, the third of which has no label."""
    rows = []
    for name, (pixels, truth, ids) in arrays.items():
        for folder, content in (("images", pixels), ("masks", truth), ("out/masks", ids)):
            file = tmp_path / folder / (name if folder == "images" else f"{name}.png")
            write_image(file, content)
        matrix = np.zeros((3, 3), np.int64)
        np.add.at(matrix, (truth[2:], ids[2:]), 1)
        size = {"height": 20, "width": 30, "class_pixels": np.bincount(ids.ravel()).tolist()}
        sha256 = hashlib.sha256((tmp_path / "images" / name).read_bytes()).hexdigest()
        rows.append(make_row(name, None if name == NAMES[2] else matrix, sha256=sha256, **size))
    places = {"archive": str(tmp_path / "images"), "labels": str(tmp_path / "masks"), "masks": "png"}
    return write_scores(tmp_path / "out", rows, part=2, **places)


def write(place: Place, **asked: Any) -> str:
    return write_figures(place, read_scores(place).survey(), ReportRequest(folders=(place,), **asked))


def draw(arrays: Arrays, names: list[str], file: Path) -> bytes:
    """The picture of these images, without a scores folder; the unlabelled one's truth counts as ignored."""
    examples = [
        Example(name, pixels, np.full_like(truth, 255) if name == NAMES[2] else truth, ids)
        for name, (pixels, truth, ids) in ((name, arrays[name]) for name in names)
    ]
    draw_predictions(examples, CLASSES).save(file)
    return file.read_bytes()


def test_images_drawn_by_lot_have_a_label_and_stand_in_the_archives_order(
    place: Place, arrays: Arrays, tmp_path: Path
) -> None:
    assert write(place, figures=8) == f"{place.uri}/figures.png"
    labelled = [name for name in NATURAL if name != NAMES[2]]
    assert (place.local("figures.png")).read_bytes() == draw(arrays, labelled, tmp_path / "all.png")


def test_named_images_come_first_also_one_without_a_label(
    place: Place, arrays: Arrays, tmp_path: Path
) -> None:
    page = tmp_path / "pages/a.html"
    assert write(place, images=(NAMES[2], "s0/*"), out=page) == f"{tmp_path}/pages/a-figures.png"
    expected = draw(arrays, [NAMES[2], "s0/2.png", "s0/10.png"], tmp_path / "some.png")
    assert (tmp_path / "pages/a-figures.png").read_bytes() == expected


def test_the_seed_decides_whatever_the_order_of_scoring(tmp_path: Path) -> None:
    rows = random_rows(40, seed=1, unlabelled=30)
    places = [
        write_scores(tmp_path / "a", rows, part=7),
        write_scores(tmp_path / "b", rows[::-1], part=3),
    ]
    drawn = []
    for seed in (0, 0, 1):
        asked = ReportRequest(folders=(), figures=4, seed=seed)
        found = [choose_images(read_scores(place).survey(), asked) for place in places]
        assert found[0] == found[1]
        drawn.append(found[0])
    assert drawn[0] == drawn[1] != drawn[2]
    labelled = {row["image"] for row in rows if row["confusion"] is not None}
    assert set(drawn[0] + drawn[2]) <= labelled


def test_each_image_is_drawn_as_often_as_any_other() -> None:
    miou = np.array([0.5, np.nan, 0.1, 0.9, 0.0, 0.7])
    lots = [draw_lots(miou, 2, seed).tolist() for seed in range(2000)]
    counts = Counter(tuple(one) for one in lots)
    assert len(counts) == 10  # pairs of five, ascending, none with the second image
    assert all(first < second and 1 not in (first, second) for first, second in counts)
    assert max(counts.values()) < 200 + 6 * 200**0.5  # six standard deviations
    assert draw_lots(np.full(3, np.nan), 9, 0).tolist() == [0, 1, 2]


def test_what_cannot_be_shown_is_named_and_the_rest_is_drawn(
    place: Place, arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "out/masks/s0/2.png.png", np.zeros((20, 30), np.uint8))
    (tmp_path / "images/s0/10.png").unlink()
    write(place, figures=8)
    said = capsys.readouterr().err
    assert "s0/2.png: The mask is no longer the one that was counted, so it is not shown." in said
    assert "s0/10.png: The image can no longer be read: No such file or directory." in said
    assert (place.local("figures.png")).read_bytes() == draw(arrays, ["s1/1.png"], tmp_path / "one.png")
    with pytest.raises(RequestError, match=r"none of the 2 images of .*/out can be shown; choose others"):
        write(place, images=("s0/*",))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"figures": -1}, "`figures` is -1, below 0; try `figures=8`"),
        ({"figures": 1, "seed": -1}, "`seed` is -1, below 0"),
        (
            {"images": ("s0/3.png",)},
            "`images=s0/3.png` is no image that was scored; did you mean s0/2.png or ",
        ),
        ({"images": ("zzz",)}, "`images=zzz` is no image that was scored; names are as in the ledger"),
        ({}, "0 images are to be shown of the 4 in .*/out; show 1 to 16: `figures=8`"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_is_written(
    place: Place, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(RequestError, match=said):
        write(place, **asked)
    assert not place.local("figures.png").exists()


def test_scores_without_masks_are_refused(tmp_path: Path) -> None:
    place = write_scores(tmp_path / "out", random_rows(3, seed=0))
    with pytest.raises(RequestError, match="out was scored without masks, so there is nothing to show"):
        write(as_place(place), figures=2)
