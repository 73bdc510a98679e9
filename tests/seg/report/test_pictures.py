import base64

import cv2
import numpy as np
import pytest

from seg.figures.panels import COLOURS, CONFUSED, IGNORED, INVENTED, MISSED
from seg.report.pictures import LONG_SIDE_PX, Picture, draw_error, draw_image, draw_mask, draw_overlay


def decode(picture: Picture, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    data = base64.b64decode(picture.uri.partition(",")[2])
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None
    return pixels


def rgb(colour: str) -> list[int]:
    return list(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(700, 300), (300, 700, 3)])
def test_an_image_of_any_depth_is_shown_over_the_whole_range(
    dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    ramp = np.linspace(40, 90, 300 * 700).reshape(shape[:2])
    pixels = (ramp if len(shape) == 2 else np.repeat(ramp[:, :, None], 3, 2)).astype(dtype)
    picture = draw_image("image", pixels)  # type: ignore[arg-type]
    shown = decode(picture)
    assert max(picture.width, picture.height) == LONG_SIDE_PX
    assert shown.shape == (picture.height, picture.width, *shape[2:])
    assert shown.dtype == np.uint8
    assert shown.min() < 12  # JPEG: not exactly 0 and 255
    assert shown.max() > 243


def test_a_flat_image_is_shown_and_warns_of_nothing() -> None:
    assert decode(draw_image("image", np.full((20, 20), 900, np.uint16))).max() == 0


def test_an_overlay_is_the_image_with_its_objects_outlined_in_their_colours() -> None:
    mask = np.zeros((1200, 1500), np.uint8)
    cv2.rectangle(mask, (300, 300), (800, 700), 1, -1)
    picture = draw_overlay(np.full(mask.shape, 90, np.uint16), mask, ("background", "cell"))
    assert (picture.caption, picture.width, picture.height) == ("overlay", 720, 576)
    shown = decode(picture, cv2.IMREAD_COLOR_RGB).astype(int)
    edge, inside, outside = (shown[row, column] for row, column in ((240, 144), (240, 240), (48, 48)))
    assert np.abs(edge - rgb(COLOURS[0])).max() < 60  # JPEG halves the resolution of colours
    assert outside.max() < 12
    assert edge.sum() > inside.sum() > outside.sum()


def test_a_mask_is_drawn_in_its_classes_colours() -> None:
    mask = np.random.default_rng(0).integers(0, 3, (9, 13), dtype=np.uint8)
    mask[0] = 255
    shown = decode(draw_mask("truth", mask, ["#102030", "#405060", "#708090"]), cv2.IMREAD_COLOR_RGB)
    palette = {0: "#102030", 1: "#405060", 2: "#708090", 255: IGNORED}
    assert shown.tolist() == [[rgb(palette[number]) for number in row] for row in mask.tolist()]


@pytest.mark.parametrize("classes", [("background", "cell", "debris"), ("sky", "road", "tree")])
def test_the_error_panel_marks_what_differs_and_nothing_else(classes: tuple[str, ...]) -> None:
    truth, ids = np.random.default_rng(0).integers(0, 3, (2, 17, 11), dtype=np.uint8)
    truth[0] = 255
    shown = cv2.cvtColor(decode(draw_error(truth, ids, classes)), cv2.COLOR_BGRA2RGBA)
    for place in np.ndindex(truth.shape):
        true, predicted, pixel = truth[place], ids[place], shown[place].tolist()
        if true == predicted:
            assert pixel[3] == 0
        elif true == 255:
            assert pixel == [*rgb(IGNORED), 255]
        elif classes[0] != "background":
            assert pixel == [*rgb(MISSED), 255]
        else:
            colour = MISSED if predicted == 0 else INVENTED if true == 0 else CONFUSED
            assert pixel == [*rgb(colour), 255]
