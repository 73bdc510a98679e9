from pathlib import Path

import cv2
import numpy as np
import pytest

from seg.figures.plots import MARGIN_PX, Sheet, flow, measure, shorten


def read_png(path: Path) -> np.ndarray:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize("size", [(1, 1), (37, 59), (333, 1001)])
def test_pixels_are_in_the_file_as_they_were_pasted(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    sheet = Sheet()
    sheet.paste(pixels, 11, 7)
    sheet.save(tmp_path / "sheet.png")
    found = read_png(tmp_path / "sheet.png")
    assert found.shape == (7 + size[0] + MARGIN_PX, 11 + size[1] + MARGIN_PX, 3)
    assert np.array_equal(found[7 : 7 + size[0], 11 : 11 + size[1]], pixels)
    found[7 : 7 + size[0], 11 : 11 + size[1]] = 255
    assert (found == 255).all()


def test_text_stands_where_it_was_put(tmp_path: Path) -> None:
    sheet = Sheet()
    sheet.write("begins", 20, 30)
    sheet.write("ends", 400, 60, align="right")
    sheet.write("middle", 200, 90, align="center")
    sheet.write_up("upwards", 300, 220)
    sheet.save(tmp_path / "sheet.png")
    dark = read_png(tmp_path / "sheet.png").min(2) < 128

    def spread(top: int, bottom: int) -> tuple[int, int]:
        columns = np.flatnonzero(dark[top:bottom].any(0))
        return int(columns[0]), int(columns[-1])

    assert spread(22, 38) == pytest.approx((20, 20 + measure("begins")), abs=3)
    assert spread(52, 68) == pytest.approx((400 - measure("ends"), 400), abs=3)
    assert sum(spread(82, 98)) / 2 == pytest.approx(200, abs=3)
    upwards = np.argwhere(dark[120:])
    assert (upwards.min(0) + upwards.max(0))[1] / 2 == pytest.approx(300, abs=4)
    assert upwards.max(0)[0] + 120 == pytest.approx(220, abs=4)


@pytest.mark.parametrize("text", ["$a_b$", "$broken", "_hidden", "a\\b{c}", "100 %", "<b>&amp;"])
def test_any_text_is_drawn_as_it_is(tmp_path: Path, text: str) -> None:
    sheet = Sheet()
    sheet.write(text, 10, 20)
    sheet.save(tmp_path / "sheet.png")
    columns = np.flatnonzero((read_png(tmp_path / "sheet.png").min(2) < 224).any(0))
    assert columns[-1] - columns[0] == pytest.approx(measure(text), abs=5)


def test_a_page_too_large_to_draw_is_refused() -> None:
    sheet = Sheet()
    sheet.write("far", 70_000, 10)
    with pytest.raises(ValueError, match=r"a figure of 70.* pixels is over 65535 a side"):
        sheet.compose()


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_text_is_shortened_to_as_much_as_fits(keep: str) -> None:
    text = "seq-000/frame-0001.png"
    assert shorten(text, measure(text), keep=keep) == text  # type: ignore[arg-type]
    for width in range(20, int(measure(text))):
        short = shorten(text, width, keep=keep)  # type: ignore[arg-type]
        kept = short.strip("…")
        assert measure(short) <= width
        assert text.startswith(kept) if keep == "start" else text.endswith(kept)
        longer = text[: len(kept) + 1] + "…" if keep == "start" else "…" + text[-len(kept) - 1 :]
        assert measure(longer) > width
    assert shorten(text, 0, keep=keep) == "…"  # type: ignore[arg-type]


def test_a_name_that_acts_on_a_screen_is_spelled_out(tmp_path: Path) -> None:
    text = shorten("a\x1b[2J\n.png", 1000)
    assert text == r"a\x1b[2J\n.png"
    sheet = Sheet()
    sheet.write(text, 10, 20)
    sheet.save(tmp_path / "sheet.png")  # with a warning, and so an error, where a letter is missing


def test_a_line_holds_what_fits_and_at_least_one() -> None:
    assert list(flow([40, 40, 40, 200, 10], 100, 10)) == [(0, 0), (0, 50), (1, 0), (2, 0), (3, 0)]
    assert list(flow([], 100, 10)) == []
