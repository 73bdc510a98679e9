import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seg.label.files import make_box
from seg.label.picture import (
    MARGIN_PX,
    Placement,
    box_colours,
    compose,
    draw_banner,
    draw_boxes,
    draw_shapes,
    scale_image,
    show_below_box,
)
from seg.label.shapes import fill_box, fill_ellipse

CLASSES = ("background", "cell", "dust")
SIDES = st.integers(1, 4000)
PLACEMENTS = st.builds(
    Placement.fit,
    st.tuples(SIDES, SIDES),
    st.tuples(st.integers(200, 1500), st.integers(200, 1500)),
    st.integers(0, 120),
)


@given(SIDES, SIDES, st.integers(200, 1500), st.integers(200, 1500), st.integers(0, 120))
def test_an_image_fits_below_the_words_with_a_margin_and_touches_it(
    own_height: int, own_width: int, height: int, width: int, top: int
) -> None:
    place = Placement.fit((own_height, own_width), (height, width), top)
    below = height - place.top - place.shown[0]
    beside = width - place.left - place.shown[1]
    assert (place.top, min(below, place.left, beside) >= MARGIN_PX) == (top + MARGIN_PX, True)
    assert below == MARGIN_PX or min(place.left, beside) == MARGIN_PX
    for side, other in ((0, 1), (1, 0)):  # the same scale both ways, to half a pixel
        exact = place.own[side] * place.shown[other] / place.own[other]
        slack = 0.5 + 0.5 * place.own[side] / place.own[other]
        assert abs(place.shown[side] - exact) <= slack or place.shown[side] == 1 or place.shown[other] == 1


@given(PLACEMENTS, st.data())
def test_a_box_drawn_on_the_screen_is_shown_where_it_was_drawn(place: Placement, data: st.DataObject) -> None:
    """Screen to own to screen is exact to half an own pixel, which is less than a screen pixel if reduced."""
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, place.shown[1])] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, place.shown[0])] * 2)))
    own = place.to_own(left + place.left, top + place.top, right - left, bottom - top)
    if own is None:
        assert right - left <= place.shown[1] / place.own[1] or bottom - top <= place.shown[0] / place.own[0]
        return
    shown = place.to_picture(make_box(1, *own))
    wanted = (left + place.left, top + place.top, right + place.left, bottom + place.top)
    for axis, (found, drawn) in enumerate(zip(shown, wanted, strict=True)):
        ratio = place.shown[1 - axis % 2] / place.own[1 - axis % 2]
        assert abs(found - drawn) <= (0 if ratio <= 1 else ratio / 2 + 0.5)


@given(PLACEMENTS, st.data())
def test_a_box_traced_on_the_screen_is_its_own_to_half_a_screen_pixel(
    place: Placement, data: st.DataObject
) -> None:
    left, right = sorted(data.draw(st.tuples(*[st.integers(0, place.own[1])] * 2)))
    top, bottom = sorted(data.draw(st.tuples(*[st.integers(0, place.own[0])] * 2)))
    shown = place.to_picture(make_box(1, left, top, right, bottom))
    traced = place.to_own(shown[0], shown[1], shown[2] - shown[0], shown[3] - shown[1])
    if traced is None:
        assert shown[0] == shown[2] or shown[1] == shown[3] or left == right or top == bottom
        return
    for axis, (found, own) in enumerate(zip(traced, (left, top, right, bottom), strict=True)):
        ratio = place.own[1 - axis % 2] / place.shown[1 - axis % 2]
        assert abs(found - own) <= (0 if ratio < 1 else ratio / 2 + 0.5)


def test_what_is_drawn_past_the_image_is_cut_at_its_edges() -> None:
    place = Placement.fit((3072, 3072), (860, 1000), 100)
    assert place.to_own(0, 0, 1000, 860) == (0, 0, 3072, 3072)
    assert place.to_own(0, 0, place.left, 860) is None  # beside it
    assert place.to_own(500, 500, 0, 10) is None


def test_a_point_of_the_screen_is_in_the_box_that_is_shown_there() -> None:
    place = Placement.fit((3072, 2000), (860, 1000), 100)
    box = make_box(1, 400, 800, 900, 1000)
    left, top, right, bottom = place.to_picture(box)
    for x, y, inside in ((left, top, True), (right - 1, bottom - 1, True), (left - 1, top, False)):
        own_x, own_y = place.point_to_own(x, y)
        assert (box.left <= own_x < box.right and box.top <= own_y < box.bottom) is inside


def test_a_small_image_is_enlarged_in_squares() -> None:
    pixels = np.array([[0, 255], [90, 30]], np.uint8)
    scaled = scale_image(pixels, (6, 6))
    assert (scaled == np.kron(pixels, np.ones((3, 3), np.uint8))[..., None]).all()


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3)])
def test_sixteen_bits_are_stretched_between_percentiles_and_eight_stay(shape: tuple[int, ...]) -> None:
    deep = np.random.default_rng(0).normal(30000, 200, shape).astype(np.uint16)
    scaled = scale_image(deep, (40, 60))
    low, high = np.percentile(deep, (0.5, 99.5))
    expected = np.clip((deep.astype(np.float64) - low) / (high - low) * 255, 0, 255)
    found = scaled[..., 0] if deep.ndim == 2 else scaled[..., ::-1]  # OpenCV shows blue first
    assert np.abs(found - expected).max() <= 0.5 + 1e-6  # rounded to integers
    shallow = (deep >> 8).astype(np.uint8)
    found = scale_image(shallow, (40, 60))
    assert (found[..., ::-1] == shallow.reshape(40, 60, -1)).all()


def test_a_flat_image_of_sixteen_bits_is_black() -> None:
    assert scale_image(np.full((9, 9), 5000, np.uint16), (9, 9)).max() == 0


def test_words_that_do_not_fit_go_on_the_next_line() -> None:
    words = [(f"word {k}", (255, 255, 255)) for k in range(12)]
    wide, narrow = draw_banner([words], 1100), draw_banner([words], 400)
    assert wide.shape[1] == 1100
    assert narrow.shape[0] > wide.shape[0]
    assert (narrow[:, -MARGIN_PX:] == narrow[0, 0]).all()  # nothing is cut off at the right
    assert draw_banner([[], []], 400).shape[0] == draw_banner([[words[0]], [words[1]]], 400).shape[0]


@pytest.mark.parametrize("hole", [False, True])
def test_objects_are_outlined_along_their_pixels_in_their_colours_and_proposals_are_dashed(
    hole: bool,
) -> None:
    colours = box_colours(CLASSES)
    assert len(set(colours)) == 3
    place = Placement.fit((100, 100), (216, 216), 0)
    disc, square = fill_ellipse(make_box(1, 10, 10, 41, 41)), fill_box(make_box(2, 50, 50, 90, 90))
    square.pixels[10:30, 10:30] = not hole
    blank = np.zeros((216, 216, 3), np.uint8)
    solid, dashed, pointed = blank.copy(), blank.copy(), blank.copy()
    draw_shapes(solid, place, (disc, square), colours)
    draw_shapes(dashed, place, (disc, square), colours, proposed=True)
    draw_shapes(pointed, place, (disc, square), colours, pointed=disc)
    counts = [
        [int((drawn == colours[kind]).all(2).sum()) for kind in (1, 2)] for drawn in (solid, dashed, pointed)
    ]
    assert 0 < counts[1][0] < counts[0][0] < counts[2][0]
    assert 0 < counts[1][1] < counts[0][1] == counts[2][1]
    shown = np.zeros((100, 100), np.uint8)
    shown[disc.region][disc.pixels] = shown[square.region][square.pixels] = 1
    inside = cv2.resize(shown, (200, 200), interpolation=cv2.INTER_NEAREST)  # as large as it is shown
    block = np.ones((7, 7), np.uint8)
    rim = cv2.dilate(inside, block) != cv2.erode(inside, block)
    drawn = (solid[8:208, 8:208] == colours[1]).all(2) | (solid[8:208, 8:208] == colours[2]).all(2)
    assert rim[drawn].all()
    assert (cv2.dilate(drawn.astype(np.uint8), block)[rim] == 1).mean() > 0.95  # corners are cut


def test_boxes_have_their_classes_colours_and_the_one_pointed_at_is_thicker() -> None:
    colours = box_colours(CLASSES)
    place = Placement.fit((100, 100), (216, 216), 0)
    blank = np.zeros((216, 216, 3), np.uint8)
    plain, pointed = blank.copy(), blank.copy()
    boxes = (make_box(1, 10, 10, 40, 40), make_box(2, 50, 50, 90, 90))
    draw_boxes(plain, place, boxes, colours)
    draw_boxes(pointed, place, boxes, colours, boxes[0])
    counts = [[int((drawn == colours[kind]).all(2).sum()) for kind in (1, 2)] for drawn in (plain, pointed)]
    assert 0 < counts[0][0] < counts[1][0]
    assert 0 < counts[0][1] == counts[1][1]
    left, top, right, bottom = place.to_picture(boxes[0])
    ys, xs = np.nonzero((plain == colours[1]).all(2))
    assert (xs.min() + 1, ys.min() + 1, xs.max(), ys.max()) == (left, top, right, bottom)


def relative_luminance(colour: np.ndarray) -> np.ndarray:
    """Of sRGB, blue first, as WCAG 2.2 defines it."""
    share = np.asarray(colour, np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ [0.0722, 0.7152, 0.2126]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("low", "high"), [(0, 40), (0, 255), (100, 150), (215, 255), (128, 128)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_blue_of_select_roi_is_seen_on_any_image(
    dtype: type[np.generic], low: int, high: int, channels: int
) -> None:
    ramp = np.linspace(low, high, 64 * 64).reshape(64, 64) * (np.iinfo(dtype).max // 255)  # type: ignore[type-var]
    pixels = ramp.astype(dtype) if channels == 1 else np.repeat(ramp.astype(dtype)[:, :, None], 3, axis=2)
    below = show_below_box(pixels, (64, 64))
    contrast = (relative_luminance(below) + 0.05) / (relative_luminance(np.array([255, 0, 0])) + 0.05)
    assert contrast.min() >= 3
    if high > low:  # and the image too: over all shades that there are
        assert np.ptp(below[:, :, 1]) >= 94


@pytest.mark.parametrize("size", [(200, 200), (40, 30), (1, 1)])
def test_a_window_of_any_size_gets_a_picture_of_that_size(size: tuple[int, int]) -> None:
    banner = draw_banner([[("some words", (255, 255, 255))]], size[1])[: size[0]]
    place = Placement.fit((64, 64), size, len(banner))
    scaled = scale_image(np.full((64, 64), 200, np.uint8), place.shown)
    assert compose(size, banner, place, scaled).shape == (*size, 3)


def test_the_image_stands_in_its_place_and_the_words_above_it() -> None:
    pixels = cv2.randu(np.zeros((64, 48), np.uint8), 100, 255)
    banner = draw_banner([[("some words", (255, 255, 255))]], 300)
    place = Placement.fit((64, 48), (300, 300), len(banner))
    scaled = scale_image(np.asarray(pixels, np.uint8), place.shown)
    picture = compose((300, 300), banner, place, scaled)
    assert (picture[: len(banner)] == banner).all()
    height, width = place.shown
    assert (picture[place.top : place.top + height, place.left : place.left + width] == scaled).all()
