import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from seg.data.drinks import open_drinks
from seg.data.labels import decode_label
from seg.data.old_labels import convert_labels, ids_of_one_hot, read_labels
from seg.data.pairing import pair_labels
from seg.errors import RequestError


def dump(tmp_path: Path, value: Any, name: str = "roi.pkl") -> Path:
    (tmp_path / name).write_bytes(pickle.dumps(value))
    return tmp_path / name


def write_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(folder / name, np.zeros((4, 6), np.uint8))
        else:
            Image.fromarray(np.zeros((4, 6), np.uint8)).save(folder / name)
    return folder


def boxes_of(labels: dict[str, bytes]) -> dict[str, Any]:
    return {name: json.loads(content)["boxes"] for name, content in labels.items()}


BOXES = [(1, 2, 3, 4), (0, 0, 2, 1)]


@pytest.mark.parametrize(
    ("value", "boxes"),
    [
        (BOXES, [[1, 2, 3, 4], [0, 0, 2, 1]]),
        ((BOXES, 137), [[1, 2, 3, 4], [0, 0, 2, 1]]),  # as the reference wrote it: boxes, place of the crop
        ((BOXES, np.arange(4)), [[1, 2, 3, 4], [0, 0, 2, 1]]),
        (([], 137), []),
        (tuple(BOXES), [[1, 2, 3, 4], [0, 0, 2, 1]]),
        ([list(box) for box in BOXES], [[1, 2, 3, 4], [0, 0, 2, 1]]),
        (([1, 2, 3, 4], [0, 0, 2, 1]), [[1, 2, 3, 4], [0, 0, 2, 1]]),
        (BOXES[0], [[1, 2, 3, 4]]),
        (np.array(BOXES, np.int32), [[1, 2, 3, 4], [0, 0, 2, 1]]),  # cv2.selectROIs
        ((np.array(BOXES, np.int32), 5), [[1, 2, 3, 4], [0, 0, 2, 1]]),
        (np.zeros((0, 4), np.int32), []),
        ((), []),
        ([(0, 0, 0, 0), (1, 2, 3, 4)], [[1, 2, 3, 4]]),  # the first was cancelled
        ([tuple(np.int64(k) for k in (1, 2, 3, 4))], [[1, 2, 3, 4]]),
        ([(0.5, 2, 3, 4.25)], [[0.5, 2, 3, 4.25]]),
        ("boxes", None),
        (7, None),
        ([(1, 2, 3)], None),
        ([(1, 2, 3, "4")], None),
        ([(1, 2, 3, float("nan"))], None),
        ([(1, 2, -3, 4)], None),
        ({"x": BOXES}, None),
        (np.zeros(3), None),
    ],
)
def test_boxes_in_every_shape_that_was_written_and_no_other(tmp_path: Path, value: Any, boxes: Any) -> None:
    file = dump(tmp_path, {"s/a b.bmp": value})
    if boxes is None:
        with pytest.raises(RequestError, match=r"roi.pkl, s/a b.bmp: "):
            read_labels(file)
    else:
        assert boxes_of(read_labels(file)) == {"s/a b.json": boxes}


def test_boxes_mean_what_the_reference_made_of_them(tmp_path: Path) -> None:
    """Its mask: rows y to y + h and columns x to x + w are 1."""
    random = np.random.default_rng(0)
    boxes = [tuple(random.integers(1, 10, 4).tolist()) for _ in range(5)]
    expected = np.zeros((20, 20), np.uint8)
    for x, y, w, h in boxes:
        expected[y : y + h, x : x + w] = 1
    (name, content), *_ = read_labels(dump(tmp_path, {"a.bmp": (boxes, 3)})).items()
    np.testing.assert_array_equal(
        decode_label(content, Path(name), (20, 20), ("background", "cell")), expected
    )


def test_a_list_is_given_to_the_images_in_natural_order(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "f-10.png", "f-9.png", "s/f.png")
    file = dump(tmp_path, [BOXES[:1], BOXES[1:], []])
    assert boxes_of(read_labels(file, images)) == {
        "f-9.json": [[1, 2, 3, 4]],
        "f-10.json": [[0, 0, 2, 1]],
        "s/f.json": [],
    }
    with pytest.raises(RequestError, match="has 3 entries without names; give `images=DIR`"):
        read_labels(file)
    write_images(images, "z.png")
    with pytest.raises(RequestError, match=r"has 3 entries, but .*images has 4 images"):
        read_labels(file, images)


def test_labels_fit_images_that_were_saved_as_name_npy(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", "d_1.bmp.npy", "d_2.bmp")
    labels = tmp_path / "labels"
    assert convert_labels(dump(tmp_path, {"d_1.bmp": (BOXES, 3), "d_2.bmp": []}), labels, images) == 2
    paired = pair_labels(["d_1.bmp.npy", "d_2.bmp"], labels)
    assert paired == {"d_1.bmp.npy": "d_1.bmp.json", "d_2.bmp": "d_2.json"}
    with pytest.raises(RequestError, match=r"d_3.bmp is none of the images; add it to `images`"):
        read_labels(dump(tmp_path, {"d_3.bmp": []}), images)


def one_hot(ids: NDArray[Any], num_classes: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return np.stack([ids == k for k in range(num_classes)], axis=2).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, bool, np.int64, np.float32])
def test_one_hot_masks_become_pngs_of_class_ids(tmp_path: Path, dtype: Any) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (3, 7, 5))
    masks = {f"{k}.jpg": one_hot(ids[k], 4, dtype) for k in range(3)}
    np.save(tmp_path / "segmentation_train.npy", masks, allow_pickle=True)  # pyright: ignore[reportArgumentType]
    out = tmp_path / "masks"
    assert convert_labels(tmp_path / "segmentation_train.npy", out) == 3
    assert sorted(path.name for path in out.iterdir() if path.suffix == ".png") == [
        f"{k}.jpg.png" for k in range(3)
    ]
    for k in range(3):
        with Image.open(out / f"{k}.jpg.png") as image:
            np.testing.assert_array_equal(np.asarray(image), ids[k])


def test_masks_drawn_as_the_book_draws_them_are_those_of_the_polygons(
    tmp_path: Path, shared_data: Path
) -> None:
    """The book's file, made anew with its own steps, against the adapter."""
    data, book = open_drinks(shared_data / "drinks"), {}
    for sample in data.test[:6]:
        colours, background = np.zeros((480, 640, 3), np.uint8), np.full((480, 640, 1), 255, np.uint8)
        assert sample.decoder is not None
        for region in sample.decoder.regions:  # pyright: ignore[reportAttributeAccessIssue]
            corners = np.array([region.corners], np.int32)
            cv2.fillPoly(colours, corners, [(255, 0, 0), (0, 255, 0), (0, 0, 255)][region.kind - 1])
            cv2.fillPoly(background, corners, 0)
        book[sample.name] = (np.concatenate([background, colours], -1).astype("float32") / 255).astype(
            "uint8"
        )
    file = tmp_path / "segmentation_test.npy"
    np.save(file, book, allow_pickle=True)  # pyright: ignore[reportArgumentType]
    labels = read_labels(file)
    for sample in data.test[:6]:
        assert sample.decoder is not None
        mask = decode_label(labels[f"{sample.name}.png"], Path("a.png"), (480, 640), data.classes)
        np.testing.assert_array_equal(mask, sample.decoder(b"", file, (480, 640), data.classes, ()))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 6), st.integers(0, 2**32))
def test_ids_and_one_hot_are_each_others_inverse(height: int, width: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = random.integers(0, count, (height, width))
    array = one_hot(ids, count)
    np.testing.assert_array_equal(ids_of_one_hot(array), ids)
    row, column, channel = (int(random.integers(side)) for side in array.shape)
    array[row, column, channel] ^= 1  # no class, or two
    with pytest.raises(ValueError, match=f"the pixel at column {column}, row {row} is .*, not one-hot"):
        ids_of_one_hot(array)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((2, 3, 4), 0.25), "column 0, row 0 is .* not one-hot"),
        (one_hot(np.zeros((2, 3)), 4) * 255, "column 0, row 0 is .* not one-hot"),
        (one_hot(np.zeros((2, 3)), 4, float) * np.nan, "not one-hot"),
        (np.ones((2, 3, 1), np.uint8), r"a mask of shape \(2, 3, 1\), wanted pixels and 2 to 255 classes"),
        (np.ones((0, 3, 4), np.uint8), "wanted pixels"),
        (np.zeros((1, 1, 256), np.uint8), "2 to 255 classes"),
        (np.zeros((2, 3, 4, 1), np.uint8), r"shape \(2, 3, 4, 1\) is neither boxes"),
    ],
)
def test_an_array_that_is_no_mask_is_refused_with_its_image(
    tmp_path: Path, array: NDArray[Any], text: str
) -> None:
    fine = one_hot(np.zeros((2, 3)), 4)
    with pytest.raises(RequestError, match=f"roi.pkl, b.jpg: .*{text}"):
        convert_labels(dump(tmp_path, {"a.jpg": fine, "b.jpg": array}), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roi.pkl"]  # nothing written


@pytest.mark.parametrize(
    "name",
    [
        *("../a.bmp", "/data/a.bmp", "s/../../a.bmp", "", ".", "a\0b", "\ud800", "a\x1b[2J"),
        *("..\\a.bmp", "D:\\data\\a.bmp", "D:a", "\\a"),
    ],
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    for value in ([], one_hot(np.zeros((2, 3)), 4)):
        with pytest.raises(RequestError, match=r"roi.pkl: .* is no name inside a folder; rename it"):
            convert_labels(dump(tmp_path, {name: value}), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["roi.pkl"]


def test_names_of_windows_are_folders_and_files(tmp_path: Path) -> None:
    assert list(read_labels(dump(tmp_path, {"s\\a.bmp": [], "ü 1.bmp": []}))) == ["s/a.json", "ü 1.json"]


@pytest.mark.parametrize("names", [("a.bmp", "a.png"), ("s/a.bmp", "s\\a.bmp")])
def test_two_images_with_one_label_file_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(RequestError, match=r"has the same label file, .*a.json; rename one"):
        read_labels(dump(tmp_path, dict.fromkeys(names, BOXES)))


def test_the_same_command_again_writes_nothing_and_another_file_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = dump(tmp_path, {"a.bmp": BOXES, "b.bmp": []})
    assert convert_labels(first, out) == 2
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert convert_labels(first, out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(RequestError, match=r"holds another conversion \(it differs in labels\); remove it"):
        convert_labels(dump(tmp_path, {"a.bmp": []}, "other.pkl"), out)


def test_folders_that_hold_something_are_left_alone(tmp_path: Path) -> None:
    file, images = dump(tmp_path, {"a.bmp": []}), write_images(tmp_path / "images", "a.bmp")
    with pytest.raises(RequestError, match=r"images holds other files and no .conversion.json"):
        convert_labels(file, images)
    with pytest.raises(RequestError, match=r"is inside .*images; give a folder outside"):
        convert_labels(file, images / "labels", images)
    with pytest.raises(RequestError, match=r"none.pkl is not there"):
        convert_labels(tmp_path / "none.pkl", tmp_path / "out")
    with pytest.raises(RequestError, match=r"holds a int, wanted a dictionary by file name"):
        convert_labels(dump(tmp_path, 3), tmp_path / "out")
    assert not (tmp_path / "out").exists()
