import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.formats.png import add_palette
from seg.data.labels import decode_label, decode_mask, encode_mask, map_foreground, read_label
from seg.errors import LabelMismatch
from tests.seg.data.test_images import encode, write_png

MASK, YOLO, JSON = Path("m/a.png"), Path("m/a.txt"), Path("m/a.json")
SIZE = (11, 9)
NAMES = tuple(f"class {number}" for number in range(255))
IDS = np.random.default_rng(0).integers(0, 4, (20, 30), dtype=np.uint8)


def save_palette(ids: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(ids).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("data", [encode(IDS, "PNG"), save_palette(IDS)], ids=["gray", "palette"])
def test_a_mask_holds_the_ids_that_were_stored(data: bytes) -> None:
    mask = decode_label(data, MASK, IDS.shape, NAMES[:4])
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, IDS)


@given(
    st.dictionaries(st.integers(0, 255), st.sampled_from([0, 1, 2, 255]), max_size=5),
    st.lists(st.integers(0, 255), min_size=1, max_size=12),
)
def test_the_label_map_comes_first_and_ids_it_leaves_unknown_are_refused(
    label_map: dict[int, int], stored: list[int]
) -> None:
    data, pairs = encode(np.array([stored], np.uint8), "PNG"), tuple(label_map.items())
    meant = [label_map.get(number, number) for number in stored]
    if all(number < 3 or number == 255 for number in meant):
        assert decode_label(data, MASK, (1, len(stored)), NAMES[:3], pairs).tolist() == [meant]
    else:
        with pytest.raises(LabelMismatch, match=r"label m/a.png holds class id .*not below 3"):
            decode_label(data, MASK, (1, len(stored)), NAMES[:3], pairs)


def test_a_label_map_to_a_class_that_is_not_there_is_refused() -> None:
    with pytest.raises(LabelMismatch, match="holds class id 3, not below 4"):
        decode_label(encode(IDS, "PNG"), MASK, IDS.shape, NAMES[:4], ((3, 7),))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_an_encoded_mask_is_read_back_by_us_and_by_pillow(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    colours = np.random.default_rng(seed).integers(0, 256, (256, 3), dtype=np.uint8)
    for palette, mode in ((b"", "L"), (colours.tobytes(), "P")):
        data = encode_mask(mask, palette)
        np.testing.assert_array_equal(decode_label(data, MASK, mask.shape, NAMES[:255]), mask)
        np.testing.assert_array_equal(decode_mask(data), mask)
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode == mode
            np.testing.assert_array_equal(np.asarray(image), mask)
            if palette:
                np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[mask])


def test_only_a_gray_png_of_8_bits_gets_a_palette() -> None:
    colour = encode(np.zeros((2, 2, 3), np.uint8), "PNG")
    with pytest.raises(ValueError, match="colour type 2 of 8 bits is not gray of 8"):
        add_palette(colour, bytes(6))


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        *(
            (YOLO, text)
            for text in (SECRET, f"0 .5 .5 .1 {SECRET}", f"{SECRET} .5 .5 .1 .1", f"{SECRET} " * 5)
        ),
        *(
            (JSON, text)
            for text in (SECRET, f'{{"boxes": "{SECRET}"}}', f'{{"boxes": [[1, 2, 3, "{SECRET}"]]}}')
        ),
        (JSON, f'{{"{SECRET}": 1}}'),
        (JSON, f'{{"boxes": [["{SECRET}"]], "classes": ["{SECRET}"]}}'),
        (JSON, f'{{"boxes": [[1, 2, 3, 4]], "classes": ["{SECRET}"]}}'),
        (MASK, SECRET),
    ],
)
def test_no_text_of_a_label_is_quoted(path: Path, data: str) -> None:
    with pytest.raises(LabelMismatch) as caught:
        read_label(data.encode(), path, SIZE, NAMES[:3])
    assert SECRET not in str(caught.value)


BAD: dict[str, tuple[Path, bytes, str]] = {
    "another size": (MASK, encode(IDS.T, "PNG"), "is 20 x 30 pixels but its image is 30 x 20 pixels"),
    "a palette of 10^12 pixels": (MASK, write_png(10**6, 10**6, 8, 3, b""), "1000000 x 1000000 pixels but"),
    "an unknown id": (MASK, encode(IDS + 2, "PNG"), "holds class id 4, 5, not below 4"),
    "colour": (MASK, encode(np.dstack([IDS] * 3), "PNG"), "wanted 8-bit class ids of one channel"),
    "16 bits": (MASK, encode(IDS.astype(np.uint16), "PNG"), "wanted 8-bit class ids"),
    "text": (MASK, b"not a mask", "is no image"),
    "no bytes": (MASK, b"", "is no image"),
    "cut short": (MASK, encode(IDS, "PNG")[:-30], "cannot be read: the file ends after"),
    "palette cut short": (MASK, save_palette(IDS)[:-40], "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_label_is_a_mismatch_that_names_the_file(kind: str) -> None:
    path, data, text = BAD[kind]
    with pytest.raises(LabelMismatch, match=f"(?s)label {path}.*{text}") as caught:
        decode_label(data, path, IDS.shape, NAMES[:4])
    assert caught.value.reason == "label_mismatch"


def save_with_pillow(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PNG"])
@pytest.mark.parametrize("bits", [1, 8])
def test_masks_of_any_kind_hold_what_pillow_stored(kind: str, bits: int) -> None:
    binary = np.random.default_rng(0).integers(0, 2, (13, 21)).astype(bool)
    image = Image.fromarray(binary) if bits == 1 else Image.fromarray(binary.astype(np.uint8) * 255)
    data, foreground = save_with_pillow(image, kind), 1 if bits == 1 else 255
    path = Path(f"m/a_mask.{kind.lower()}")
    mask = decode_label(data, path, binary.shape, ("background", "object"), map_foreground(foreground))
    np.testing.assert_array_equal(mask, binary)


def test_a_mask_of_several_pages_is_refused() -> None:
    page = Image.fromarray(IDS)
    data = save_with_pillow(page, "TIFF", save_all=True, append_images=[page, page])
    with pytest.raises(LabelMismatch, match=r"label m/a.tif has 3 pages and its image one; save that mask"):
        decode_label(data, Path("m/a.tif"), IDS.shape, NAMES[:4])
