"""What files say of how they were held, against Pillow, which reads it in another way."""

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from seg.data.images import Turned, read_orientation
from seg.errors import DataWarning
from seg.pack.build import ensure_pack
from seg.pack.pack import Pack
from seg.pack.training_data import warn_of_orientation
from tests.conftest import WriteArchive
from tests.seg.pack.test_pack import plan_of

FORMATS = ("JPEG", "PNG", "TIFF")


def encode(form: str, orientation: int | None, size: tuple[int, int] = (40, 30)) -> bytes:
    """An image of noise; None: without any EXIF."""
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image, file, exif = Image.fromarray(pixels), io.BytesIO(), Image.Exif()
    if orientation is None:
        image.save(file, form)
    else:
        exif[271], exif[274], exif[305] = "a maker", orientation, "a program"
        image.save(file, form, exif=exif)
    return file.getvalue()


def orientation_of(data: bytes) -> int:
    return read_orientation(io.BytesIO(data))


def by_pillow(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.getexif().get(274, 1)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_the_orientation_is_the_one_that_pillow_finds(form: str, orientation: int | None) -> None:
    data = encode(form, orientation)
    assert orientation_of(data) == by_pillow(data) == (orientation or 1)


@pytest.mark.parametrize("orientation", [0, 9, 274])
def test_a_number_that_is_no_orientation_is_none(orientation: int) -> None:
    assert orientation_of(encode("TIFF", orientation)) == 1


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", ["short", "long"])
def test_both_byte_orders_and_sizes_of_tiff_are_read(order: str, big: bool, kind: str) -> None:
    mark = b"II" if order == "<" else b"MM"
    value = struct.pack(f"{order}{'I' if kind == 'long' else 'H'}", 6)
    number = 4 if kind == "long" else 3
    if big:
        head = mark + struct.pack(f"{order}HHHQ", 43, 8, 0, 16)
        entries = (
            struct.pack(f"{order}Q", 1) + struct.pack(f"{order}HHQ", 274, number, 1) + value.ljust(8, b"\0")
        )
    else:
        head = mark + struct.pack(f"{order}HI", 42, 8)
        entries = (
            struct.pack(f"{order}H", 1) + struct.pack(f"{order}HHI", 274, number, 1) + value.ljust(4, b"\0")
        )
    assert orientation_of(head + entries) == 6


def test_segments_before_the_exif_are_passed_over() -> None:
    data = encode("JPEG", 8)
    comment = b"\xff\xfe" + struct.pack(">H", 1002) + bytes(1000)
    other = b"\xff\xe1" + struct.pack(">H", 12) + b"http://xx\0"
    assert orientation_of(data[:2] + comment + b"\xff" + other + data[2:]) == 8


@given(data=st.data(), form=st.sampled_from(FORMATS))
def test_nothing_that_a_damaged_file_holds_raises(data: st.DataObject, form: str) -> None:
    whole = bytearray(WHOLE[form])
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole) - 1, 400)))] = data.draw(st.integers(0, 255))
    assert 1 <= orientation_of(bytes(whole[: data.draw(st.integers(0, len(whole)))])) <= 8


WHOLE = {form: encode(form, 6, (8, 8)) for form in FORMATS}


def test_the_warning_counts_and_names_the_first() -> None:
    turned = Turned()
    turned.add("a.jpg", 1)
    assert turned.warning == ""
    turned.add("b.jpg", 6)
    assert turned.warning.startswith(
        "1 image carries an orientation (the first is b.jpg), which viewers apply"
    )
    turned.add("c.jpg", 3)
    assert turned.warning.startswith("2 images carry an orientation (the first is b.jpg)")


def test_a_pack_of_turned_images_is_warned_of_once_and_their_pixels_are_as_stored(
    write_archive: WriteArchive,
) -> None:
    root = write_archive(sequences=1, frames=3)
    exif = Image.Exif()
    exif[274] = 6
    for frame in (1, 2):
        file = root / f"images/s0/{frame}.png"
        Image.open(file).save(file, exif=exif)
    pack = Pack(ensure_pack(plan_of(root)))
    assert [image.orientation for image in pack.images()] == [1, 6, 6]
    assert {image.own_size for image in pack.images()} == {(64, 96)}
    with pytest.warns(DataWarning, match=r"^data: 4 images carry .* \(the first is .*s0/1.png\)") as said:
        warn_of_orientation(pack, pack)
    assert len(said) == 1


def test_an_archive_without_any_is_not_warned_of(write_archive: WriteArchive) -> None:
    pack = Pack(ensure_pack(plan_of(write_archive(sequences=1, frames=2))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_orientation(pack)
