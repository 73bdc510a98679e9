import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image, ImageDraw

from seg.data.drinks import CLASSES, Polygon, Polygons, open_drinks
from seg.data.splits import split_samples
from seg.errors import DataWarning, LabelMismatch, RequestError

FILE = Path("segmentation_train.json")
SQUARE = ((2, 3), (6, 3), (6, 8), (2, 8))


def region(kind: str, xs: list[Any], ys: list[Any], shape: str = "polygon") -> dict[str, Any]:
    return {
        "shape_attributes": {"name": shape, "all_points_x": xs, "all_points_y": ys},
        "region_attributes": {"Name": kind},
    }


def write_project(root: Path, images: dict[str, Any], name: str = "segmentation_train.json") -> Path:
    entries = {f"{image}9": {"filename": image, "regions": regions} for image, regions in images.items()}
    (root / name).write_text(json.dumps({"_via_img_metadata": entries}))
    for image in images:
        (root / image).touch()
    return root


def test_masks_are_the_polygons_of_the_project_but_for_pixels_on_an_edge(shared_data: Path) -> None:
    """matplotlib says whether a pixel's centre is inside; both drawings agree farther than 1 px from edges.

    An edge runs through centres or between them, so which side a pixel within 1 px of it is on is the rule of
    whoever draws.
    """
    data = open_drinks(shared_data / "drinks")
    project = json.loads((data.root / "segmentation_train.json").read_text())["_via_img_metadata"]
    regions = {entry["filename"]: entry["regions"] for entry in project.values()}
    rows, columns = np.mgrid[:480, :640]
    centres = np.column_stack([columns.ravel(), rows.ravel()])
    assert [sample.name for sample in data.samples] == [entry["filename"] for entry in project.values()]
    for sample in data.samples[::18]:
        expected, near_edge = np.zeros((480, 640), np.uint8), np.zeros((480, 640), bool)
        for one in regions[sample.name]:
            shape, kind = one["shape_attributes"], int(one["region_attributes"]["Name"])
            corners = np.column_stack([shape["all_points_x"], shape["all_points_y"]])
            corners = np.vstack([corners, corners[:1]])
            expected[Outline(corners).contains_points(centres).reshape(480, 640)] = kind
            near_edge |= distance_to(corners, rows, columns) <= 1
        assert sample.decoder is not None
        mask = sample.decoder(b"", FILE, (480, 640), CLASSES, ())
        np.testing.assert_array_equal(mask[~near_edge], expected[~near_edge])
        assert near_edge.mean() < 0.02


def distance_to(corners: Any, rows: Any, columns: Any) -> Any:
    """Distance in pixels of every pixel's centre to the nearest edge of a closed outline."""
    nearest = np.full(rows.shape, np.inf)
    for (x0, y0), (x1, y1) in pairwise(corners):
        length = max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
        along = np.clip(((columns - x0) * (x1 - x0) + (rows - y0) * (y1 - y0)) / length, 0, 1)
        nearest = np.minimum(
            nearest, np.hypot(columns - x0 - along * (x1 - x0), rows - y0 - along * (y1 - y0))
        )
    return nearest


def test_masks_are_nearly_those_that_pillow_draws(shared_data: Path) -> None:
    """Pillow's lines step otherwise than OpenCV's: a pixel here and there on an edge, none elsewhere."""
    for sample in open_drinks(shared_data / "drinks").samples[:30]:
        assert isinstance(sample.decoder, Polygons)
        image = Image.new("L", (640, 480))
        for one in sample.decoder.regions:
            ImageDraw.Draw(image).polygon(one.corners, fill=one.kind, outline=one.kind)
        mask = sample.decoder(b"", FILE, (480, 640), CLASSES, ())
        assert np.count_nonzero(mask != np.asarray(image)) < 0.001 * mask.size


def test_the_pixel_shares_are_those_published_with_the_data(shared_data: Path) -> None:
    data = open_drinks(shared_data / "drinks")
    for samples, published in (
        (data.samples, [86.73, 5.71, 3.99, 3.58]),
        (data.test, [80.98, 6.17, 7.70, 5.15]),
    ):
        counts = np.zeros(4, np.int64)
        for sample in samples:
            assert sample.decoder is not None
            counts += np.bincount(sample.decoder(b"", FILE, (480, 640), CLASSES, ()).ravel(), minlength=4)
        shares = 100 * counts / counts.sum()
        np.testing.assert_allclose(shares, published, atol=0.05)  # edge pixels are a matter of rule


def test_chance_splits_the_training_project_and_leaves_the_test_project_alone(shared_data: Path) -> None:
    data = open_drinks(shared_data / "drinks")
    assert data.classes == ("background", "Water", "Soda", "Juice")
    split = split_samples(data, 0.2, seed=1)
    assert (len(split.train), len(split.validation), len(data.test)) == (72, 18, 20)
    assert "18 of 90 images" in split.how
    assert split != split_samples(data, 0.2, seed=2)


POINT = st.tuples(st.integers(0, 19), st.integers(0, 14))


@given(st.lists(POINT, min_size=3, max_size=8))
def test_any_polygon_fills_what_is_inside_and_nothing_a_pixel_away(corners: list[tuple[int, int]]) -> None:
    mask = Polygons("a", (Polygon(1, tuple(corners)),))(b"", FILE, (15, 20), CLASSES, ())
    rows, columns = np.mgrid[:15, :20]
    closed = np.array([*corners, corners[0]], float)
    far = distance_to(closed, rows, columns) > 1
    inside = count_crossings(closed, rows, columns) % 2 == 1
    np.testing.assert_array_equal(mask[far], inside[far])
    assert all(mask[y, x] for x, y in corners)


def count_crossings(corners: Any, rows: Any, columns: Any) -> Any:
    """How many edges a ray to the right of each pixel's centre crosses: odd means inside."""
    crossings = np.zeros(rows.shape, int)
    for (x0, y0), (x1, y1) in pairwise(corners):
        if y0 != y1:
            at = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
            crossings += ((rows >= min(y0, y1)) & (rows < max(y0, y1)) & (at > columns)).astype(int)
    return crossings


def test_later_polygons_cover_earlier_ones_and_a_label_map_is_applied() -> None:
    small = ((4, 5), (8, 5), (8, 6), (4, 6))
    draw = Polygons("a", (Polygon(1, SQUARE), Polygon(3, small)))
    mask = draw(b"", FILE, (10, 12), CLASSES, ())
    expected = np.zeros((10, 12), np.uint8)
    expected[3:9, 2:7] = 1
    expected[5:7, 4:9] = 3
    np.testing.assert_array_equal(mask, expected)
    mapped = draw(b"", FILE, (10, 12), CLASSES, ((3, 255),))
    np.testing.assert_array_equal(mapped, np.where(expected == 3, 255, expected))


def test_a_polygon_that_reaches_out_is_clipped_with_a_warning_and_one_outside_is_refused() -> None:
    draw = Polygons("a.jpg", (Polygon(1, ((8, 0), (13, 0), (13, 4), (8, 4))),))
    with pytest.warns(
        DataWarning, match=r"segmentation_train.json, a.jpg, region 1: the polygon reaches out"
    ):
        mask = draw(b"", FILE, (10, 12), CLASSES, ())
    assert mask.sum() == 4 * 5
    with pytest.raises(LabelMismatch, match=r"a.jpg, region 1: the polygon lies outside its image of 8 x 10"):
        draw(b"", FILE, (10, 8), CLASSES, ())


def test_the_decoder_pickles_and_its_repr_says_every_corner() -> None:
    decoder = Polygons("a.jpg", (Polygon(2, SQUARE),))
    assert pickle.loads(pickle.dumps(decoder)) == decoder  # noqa: S301 - our own bytes
    assert repr(decoder) == f"Polygons(image='a.jpg', regions=(Polygon(kind=2, corners={SQUARE}),))"


def test_regions_may_be_numbered_and_corners_between_pixels_and_an_image_without_drinks(
    tmp_path: Path,
) -> None:
    regions = {"0": region("2", [1.4, 5.6, 3], [1, 1, 8])}
    data = open_drinks(write_project(tmp_path, {"a.jpg": regions, "b.jpg": []}))
    assert [sample.decoder for sample in data.samples] == [
        Polygons("a.jpg", (Polygon(2, ((1, 1), (6, 1), (3, 8))),)),
        Polygons("b.jpg", ()),
    ]
    assert [sample.sequence for sample in data.samples] == ["a.jpg", "b.jpg"]
    assert data.test == ()


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (region("4", [1, 2, 3], [1, 2, 5]), "its Name is none of 1"),
        (region("1", [1, 2], [1, 2]), "corners are too few"),
        (region("1", [1, 2, 3], [1, 2]), "shorter"),
        (region("1", [1, 2, "3"], [1, 2, 3]), "all_points_x"),
        (region("1", [1, 2, float("nan")], [1, 2, 3]), "NaN"),
        (region("1", [1, 2, 10**9], [1, 2, 3]), "far outside"),
        (region("1", [1, 2, 3], [1, 2, 3], "circle"), "its shape is no polygon"),
        ({"shape_attributes": {}}, "region_attributes has Name"),
        (7, "region_attributes has Name"),
    ],
)
def test_a_region_that_is_no_polygon_is_refused_with_its_place(tmp_path: Path, one: Any, text: str) -> None:
    write_project(tmp_path, {"a.jpg": [region("1", [1, 2, 3], [1, 2, 5]), one]})
    with pytest.raises(
        RequestError, match=f"segmentation_train.json, entry 1, region 2 is no polygon.*{text}"
    ):
        open_drinks(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "[" * 100_000, '{"_via_img_metadata": {"a": 1}}'),
        '{"_via_img_metadata": {"a": {"filename": "a", "regions": 3}}}',
    ],
)
def test_a_file_that_is_no_project_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "segmentation_train.json").write_text(text)
    with pytest.raises(RequestError, match=r"segmentation_train.json is no VIA project"):
        open_drinks(tmp_path)


def test_what_is_missing_or_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"has no segmentation_train.json; give the folder drinks"):
        open_drinks(tmp_path)
    (write_project(tmp_path, {"a.jpg": []}) / "a.jpg").unlink()
    with pytest.raises(
        RequestError, match=r"segmentation_train.json, entry 1, field filename names no file in"
    ):
        open_drinks(tmp_path)
    entry = {"filename": "a.jpg", "regions": []}
    (tmp_path / "segmentation_train.json").write_text(
        json.dumps({"_via_img_metadata": {"1": entry, "2": entry}})
    )
    (tmp_path / "a.jpg").touch()
    with pytest.raises(RequestError, match=r"segmentation_train.json, entry 2: its image is there twice"):
        open_drinks(tmp_path)
