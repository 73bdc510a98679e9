import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seg.label.files import make_box
from seg.label.shapes import erase, fill_box, fill_ellipse, find_shape, find_shapes, paint

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3))


def components_by_scipy(ids: np.ndarray, least_px: int) -> list[tuple[int, np.ndarray]]:
    """Class and pixels, in the whole image, of each 8-connected component, by another library."""
    found = []
    for kind in range(1, 4):
        components, count = scipy.ndimage.label(ids == kind, np.ones((3, 3)))
        found += [(kind, components == place) for place in range(1, count + 1)]
    return [(kind, pixels) for kind, pixels in found if pixels.sum() >= least_px]


@given(MASKS, st.sampled_from([1, 2, 5]))
def test_objects_are_the_connected_components_of_enough_pixels(ids: np.ndarray, least_px: int) -> None:
    shapes, wanted = find_shapes(ids, 4, least_px), components_by_scipy(ids, least_px)
    assert len(shapes) == len(wanted)
    for kind, pixels in wanted:
        (shape,) = (one for one in shapes if one.box.kind == kind and pixels[one.region][one.pixels].any())
        assert (paint(np.zeros_like(ids), [shape]) == kind * pixels).all()
        rows, columns = np.nonzero(pixels)
        edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert (shape.box.left, shape.box.top, shape.box.right, shape.box.bottom) == edges
        assert (erase(ids, shape) == np.where(pixels, 0, ids)).all()


@given(MASKS)
def test_the_object_at_a_point_is_the_one_whose_pixel_is_there(ids: np.ndarray) -> None:
    shapes = find_shapes(ids, 4)
    for row, column in np.ndindex(ids.shape):
        for shift in (0, 0.5, 0.99):
            shape = find_shape(shapes, (column + shift, row + shift))
            assert (shape.box.kind if shape else 0) == ids[row, column]
    assert find_shape(shapes, None) is None
    for outside in ((-0.5, 0.5), (0.5, -0.5), (ids.shape[1] + 0.5, 0.5), (0.5, ids.shape[0] + 0.5)):
        assert find_shape(shapes, outside) is None


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (9, 4), (40, 61)])
def test_an_ellipse_touches_its_box_and_has_the_pixels_whose_centres_are_inside(
    width: int, height: int
) -> None:
    shape = fill_ellipse(make_box(2, 3, 5, 3 + width, 5 + height))
    for row, column in np.ndindex(shape.pixels.shape):
        x, y = column + 0.5 - width / 2, row + 0.5 - height / 2
        assert shape.pixels[row, column] == ((2 * x / width) ** 2 + (2 * y / height) ** 2 <= 1)
    assert shape.pixels.any(0).all()
    assert shape.pixels.any(1).all()
    assert abs(shape.pixels.sum() - np.pi / 4 * width * height) <= width + height  # its area, but for the rim


def test_what_is_painted_later_covers_what_was_there_and_the_mask_given_stays() -> None:
    mask = np.full((6, 8), 255, np.uint8)
    painted = paint(mask, [fill_box(make_box(1, 1, 1, 5, 4)), fill_box(make_box(2, 4, 2, 7, 6))])
    wanted = mask.copy()
    wanted[1:4, 1:5] = 1
    wanted[2:6, 4:7] = 2
    assert (painted == wanted).all()
    assert (mask == 255).all()
