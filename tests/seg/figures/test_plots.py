import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from seg.figures.panels import (
    IGNORED,
    class_colours,
    show_errors,
    show_mask,
    show_overlay,
    show_pixels,
    to_rgb,
)
from seg.figures.plots import (
    HIGHLIGHT,
    INK,
    PANEL_PX,
    WELL,
    WRONG,
    Example,
    Sheet,
    draw_confusion,
    draw_overlay,
    draw_predictions,
    list_classes,
    measure,
    plot_curves,
    short_count,
    show_below_overlay,
)

CLASSES = ("sky", "road", "tree")


def read_png(path: Path) -> np.ndarray:
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


def make_example(
    size: tuple[int, int] = (30, 44), seed: int = 0, *, ignored: int = 3, **changes: Any
) -> Example:
    random = np.random.default_rng(seed)
    truth, prediction = random.integers(0, 3, (2, *size), dtype=np.uint8)
    truth[:ignored] = 255
    pixels = random.integers(0, 4000, size, dtype=np.uint16)
    fields = {"name": "a.png", "pixels": pixels, "truth": truth, "prediction": prediction}
    return Example(**(fields | changes))


def test_a_figure_has_the_four_panels_of_every_row_side_by_side() -> None:
    rows = [make_example(seed=1), make_example((50, 20), seed=2, ignored=0)]
    sheet = draw_predictions(rows, CLASSES)
    for row, size, place in zip(rows, ((300, 440), (440, 176)), (0, 4), strict=True):
        image = show_pixels(row.pixels, size)
        masks = [show_mask(mask, size, CLASSES) for mask in (row.truth, row.prediction)]
        expected = [image, *masks, show_errors(image, row.truth, row.prediction, CLASSES)]
        panels, lefts, tops = zip(*sheet.arrays[place : place + 4], strict=True)
        for panel, wanted in zip(panels, expected, strict=True):
            assert np.array_equal(panel, wanted)
        assert lefts == (24, 474, 924, 1374)
        assert len(set(tops)) == 1
    assert sheet.arrays[4][2] > sheet.arrays[0][2] + 300


def test_nothing_on_a_figure_lies_on_a_panel() -> None:
    rows = [make_example(seed=seed, name="a/long/name/of/a/file" * 30) for seed in range(3)]
    sheet = draw_predictions(rows, [f"a class {n}" for n in range(40)])
    covered = np.zeros(sheet.compose().shape[:2], int)
    for pixels, left, top in sheet.arrays:
        covered[top : top + pixels.shape[0], left : left + pixels.shape[1]] += 1
    assert covered.max() == 1
    for label in sheet.labels:
        bottom, right = (math.ceil(side) for side in label.corner())
        assert not covered[bottom - label.size_px : bottom, int(label.x) : right].any(), label.text


@pytest.mark.parametrize("num_classes", [1, 2, 12, 40])
def test_a_legend_has_every_class_in_its_colour(num_classes: int) -> None:
    classes = [f"class {n}" for n in range(num_classes)]
    row = make_example(truth=np.zeros((9, 9), np.uint8), prediction=np.zeros((9, 9), np.uint8), size=(9, 9))
    entries = list_classes([row], classes)
    assert [name for name, _ in entries] == classes
    for (_, swatch), colour in zip(entries, class_colours(classes), strict=True):
        assert {tuple(pixel) for pixel in swatch.reshape(-1, 3).tolist()} == {to_rgb(colour)}


def test_a_legend_names_ignored_pixels_where_there_are_any() -> None:
    assert [name for name, _ in list_classes([make_example()], CLASSES)] == [*CLASSES, "ignored"]
    assert [name for name, _ in list_classes([make_example(ignored=0)], CLASSES)] == list(CLASSES)


def test_a_share_is_of_the_counted_pixels_at_own_size() -> None:
    truth, prediction = np.zeros((2, 10, 10), np.uint8)
    truth[:5], prediction[:6, :3] = 255, 1
    example = make_example((10, 10), truth=truth, prediction=prediction)
    assert example.wrong_share() == 3 / 50
    assert np.isnan(make_example((10, 10), ignored=10).wrong_share())


@pytest.mark.parametrize("pixels", [np.zeros((1, 1), np.uint8), np.zeros((4, 3000, 3), np.uint8)])
def test_images_of_any_size_make_a_figure(tmp_path: Path, pixels: np.ndarray) -> None:
    mask = np.full(pixels.shape[:2], 255, np.uint8)
    draw_predictions([Example("n" * 300, pixels, mask, mask * 0)], CLASSES).save(tmp_path / "figure.png")
    height, width, _ = read_png(tmp_path / "figure.png").shape
    assert height < 700
    assert width < 4 * PANEL_PX + 200


def test_examples_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"a.png: image, truth and prediction have the sizes \[\(2, 3\), \(30"
    ):
        make_example(pixels=np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="no rows"):
        draw_predictions([], CLASSES).save(tmp_path / "figure.png")


def near(sheet: Sheet, array: int) -> list[str]:
    """Texts on one of a sheet's arrays, from the top."""
    pixels, left, top = sheet.arrays[array]
    bottom, right = top + pixels.shape[0], left + pixels.shape[1]
    found = [label for label in sheet.labels if left < label.x < right and top < label.y < bottom]
    assert all(measure(label.text, label.size_px) < right - left for label in found)
    return [label.text for label in sorted(found, key=lambda label: label.y)]


def make_confusion(count: int) -> NDArray[np.int64]:
    """Row 0 is 96 to 4 percent, row 1 absent, the others all wrong and in the first column."""
    confusion = np.zeros((count, count), np.int64)
    confusion[0, :2] = 960_000, 40_000
    confusion[2:, 0] = 123
    return confusion


@pytest.mark.parametrize("count", [2, 4, 5, 8, 9, 16, 17, 32])
def test_a_confusion_matrix_is_blue_where_right_orange_where_wrong_hatched_where_absent(count: int) -> None:
    sheet = draw_confusion(make_confusion(count), [f"class {n}" for n in range(count)])
    assert len(sheet.arrays) == count**2
    for place, (cell, _, _) in enumerate(sheet.arrays):
        true, predicted = divmod(place, count)
        colours = {tuple(pixel) for pixel in cell.reshape(-1, 3).tolist()}
        if true == 1:
            assert colours == {to_rgb(WELL), to_rgb(IGNORED)}
            continue
        ((red, _, blue),) = colours
        kind = "blue" if blue > red + 20 else "orange" if red > blue + 20 else "nothing"
        assert kind == {(0, 0): "blue"}.get((true, predicted), "orange" if place % count < 2 - true else kind)
        if true > 1:
            assert colours == {to_rgb(WRONG) if predicted == 0 else to_rgb(WELL)}


@pytest.mark.parametrize(
    ("count", "right", "wrong"),
    [
        (4, ["96.0", "960 k"], ["4.0", "40 k"]),
        (8, ["96.0", "960 k"], ["4.0", "40 k"]),
        (16, ["96.0"], ["4.0"]),
        (32, ["96"], ["4"]),
    ],
)
def test_cells_say_percent_and_where_there_is_room_counts(
    count: int, right: list[str], wrong: list[str]
) -> None:
    sheet = draw_confusion(make_confusion(count), [f"class {n}" for n in range(count)])
    assert near(sheet, 0) == right
    assert near(sheet, 1) == wrong
    assert near(sheet, 2) == near(sheet, count) == []
    assert near(sheet, 2 * count)[0] in {"100.0", "100"}
    texts = [label.text for label in sheet.labels]
    assert {"1.0 M", "none in truth", "123"} <= set(texts)
    assert all(texts.count(f"class {n}") == 2 for n in range(count))


def test_a_figure_on_a_cell_is_dark_on_light_and_light_on_dark() -> None:
    confusion = np.array([[60, 40], [1, 99]], np.int64)
    sheet = draw_confusion(confusion, ("a", "b"))
    inks = {label.text: label.colour for label in sheet.labels}
    assert inks["40.0"] == inks["1.0"] == INK
    assert inks["99.0"] == "#ffffff"


@pytest.mark.parametrize("count", [1, 2, 32])
def test_a_confusion_matrix_is_saved(tmp_path: Path, count: int) -> None:
    names = ["$x_1$", "_hidden", *(f"a long name of class {n} that goes on" for n in range(30))][:count]
    draw_confusion(np.zeros((count, count), np.int64), names).save(tmp_path / "confusion.png")
    height, width, _ = read_png(tmp_path / "confusion.png").shape
    assert min(height, width) > 100
    assert max(height, width) < 1500


def test_a_matrix_of_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is \(2, 2\) for 3 classes"):
        draw_confusion(np.zeros((2, 2), np.int64), CLASSES).save(tmp_path / "confusion.png")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10 k"),
        (123_456, "123 k"),
        (1_234_567, "1.2 M"),
        (3 * 10**9, "3.0 G"),
    ],
)
def test_counts_are_short(number: int, text: str) -> None:
    assert short_count(number) == text


NAN = float("nan")


@pytest.mark.parametrize(
    ("losses", "scores"),
    [
        ([1.2], [0.5]),
        ([1.2, 0.3, 0.2], [NAN, 0.5, 0.4]),
        ([NAN, NAN], [NAN, NAN]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([1e3, 1e-6], [0.1, 0.2]),
        ([math.inf, 2.0], [0.1, 0.2]),
        ([1.0] * 200, [0.9] * 200),
    ],
)
def test_curves_are_drawn_of_any_history(tmp_path: Path, losses: list[float], scores: list[float]) -> None:
    epochs, best = range(1, len(losses) + 1), 1 + int(np.argmax(np.nan_to_num(scores)))
    plot_curves(tmp_path / "curves.png", epochs, losses, [NAN] * len(losses), scores, best_epoch=best)
    page = read_png(tmp_path / "curves.png")
    assert page.shape == (396, 990, 3)
    drawn = (page == to_rgb(HIGHLIGHT)).all(2)
    assert drawn[:, :495].any() == any(loss and 0 < loss < math.inf for loss in losses)
    assert drawn[:, 495:].any() == any(not math.isnan(score) for score in scores)


@pytest.mark.parametrize(
    ("own", "shown"), [((30, 44), (300, 440)), ((600, 500), (600, 500)), ((1100, 2048), (550, 1024))]
)
def test_an_overlay_is_one_panel_with_its_name_and_the_classes_that_it_shows(
    own: tuple[int, int], shown: tuple[int, int]
) -> None:
    row, classes = make_example(own, name="a/name.tif#3"), ("background", "cell", "debris")
    sheet = draw_overlay(row.name, show_below_overlay(row.pixels), row.prediction, classes)
    (panel, _, top), *swatches = sheet.arrays
    assert np.array_equal(panel, show_overlay(show_pixels(row.pixels, shown), row.prediction, classes))
    texts = [label.text for label in sheet.labels]
    assert texts == [row.name, f"{own[1]} x {own[0]}", *classes[1:]]
    assert len(swatches) == len(classes) - 1 == 2
    assert all(place > top + shown[0] for _, _, place in swatches)


@pytest.mark.parametrize("validation_losses", [[0.9, 0.4], [NAN, 0.4], [0.0, math.inf], [NAN, NAN]])
def test_validation_loss_is_drawn_where_there_is_any(tmp_path: Path, validation_losses: list[float]) -> None:
    plot_curves(tmp_path / "curves.png", (1, 2), (1.0, 0.5), validation_losses, (0.1, 0.2), best_epoch=2)
    left = read_png(tmp_path / "curves.png")[:, :495]
    assert (left == to_rgb(HIGHLIGHT)).all(2).any()
    assert (left == to_rgb(WRONG)).all(2).any() != all(map(math.isnan, validation_losses))


def test_the_marked_epoch_is_the_one_that_is_said(tmp_path: Path) -> None:
    pages = {}
    for best in (0, 1, 2):
        file = tmp_path / f"{best}.png"
        plot_curves(file, (1, 2), (1.0, 0.5), (0.9, 1.2), (0.1, 0.9), best_epoch=best)
        pages[best] = (read_png(file)[:, 495:] == to_rgb(HIGHLIGHT)).all(2)
    marks = [np.argwhere(pages[best] & ~pages[0])[:, 1].mean() for best in (1, 2)]
    assert marks[0] < 250 < marks[1]  # left and right of the middle
