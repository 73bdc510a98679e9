"""Images through an `ImageModel`, beside what the predict job writes of the same ones."""

import io
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label

from jobs import predict
from seg.errors import DataWarning, RequestError, TooLargeImage, TruncatedImage
from seg.recipe import Preprocessing
from seg.requests import PredictRequest
from seg.score.image_model import ImageModel, PredictedImage
from tests.conftest import WriteArchive
from tests.small import CLASSES, read_ids, write_image, write_model, write_odd_archive

SMALL = Preprocessing(channels=1, shrink=3)
SEEN = {
    "shrunk": {"preprocessing": SMALL},
    "background": {"preprocessing": Preprocessing(channels=1, background_every=1)},
    "frames": {"architecture": "icnet-gru", "frames": 3},
}
OPTIONS = {"min_object_px": 9}


def open_model(file: Path, **options: Any) -> ImageModel:
    return ImageModel(PredictRequest(images=(), models=(file,), **OPTIONS | options))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "m.safetensors", **SEEN["shrunk"])


@pytest.fixture
def model(file: Path) -> ImageModel:
    return open_model(file)


def draw(height: int = 97, width: int = 130, dtype: type = np.uint8) -> NDArray[Any]:
    return np.random.default_rng(3).integers(0, np.iinfo(dtype).max, (height, width)).astype(dtype)


def predict_by_job(words: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """What the job says of each image, its mask and overlay from their files beside it."""
    assert predict.main([*words, "--min-object", "9", "--out", str(folder)]) == 0
    images = json.loads((folder / "summary.json").read_text())["images"]
    for image in images:
        image["masks"] = read_ids(folder / "masks" / f"{image['image']}.png")
        image["overlays"] = cv2.imread(
            str(folder / "overlays" / f"{image['image']}.png"), cv2.IMREAD_UNCHANGED
        )
    return {image["image"]: image for image in images}


def check_alike(found: PredictedImage, image: dict[str, Any]) -> None:
    assert found.mask.dtype == np.uint8
    assert found.mask.tolist() == image["masks"].tolist()
    assert found.objects.to_pylist() == image["objects"]
    assert found.confidence == image["confidence"]


def test_files_get_the_masks_objects_and_pictures_of_the_job(tmp_path: Path, file: Path) -> None:
    write_odd_archive(tmp_path / "odd")
    pattern = str(tmp_path / "odd/images/**/*.*")
    by_job = predict_by_job([pattern, "--model", str(file)], tmp_path / "job")
    found = open_model(file).predict([pattern])
    assert [one.name for one in found] == list(by_job)
    assert len(found) > 8
    for one in found:
        check_alike(one, by_job[one.name])
    assert sum(len(one.objects) for one in found) > 10
    shown, written = np.asarray(found[0].overlay().convert("RGB")), by_job[found[0].name]["overlays"]
    assert shown.tolist() == written[:, :, 2::-1].tolist()


@pytest.mark.parametrize("kind", ["background", "frames"])
def test_a_file_is_seen_with_its_neighbours_and_a_list_of_pixels_is_a_sequence(
    tmp_path: Path, write_archive: WriteArchive, kind: str
) -> None:
    file = write_model(tmp_path / "m.safetensors", **SEEN[kind])
    folder = write_archive("in", sequences=1, frames=6, size=(70, 96)) / "images/s0"
    by_job = predict_by_job([f"{folder}/*.png", "--model", str(file), "--overlays", "none"], tmp_path / "job")
    model = open_model(file)
    check_alike(model.predict(folder / "4.png"), by_job["4.png"])
    arrays = [cv2.imread(str(folder / f"{k}.png"), cv2.IMREAD_UNCHANGED) for k in range(6)]
    for found, image in zip(model.predict(arrays), by_job.values(), strict=True):
        check_alike(found, image)


def test_pixels_give_what_their_file_gives_whatever_their_order_in_memory(
    tmp_path: Path, model: ImageModel
) -> None:
    deep = draw(dtype=np.uint16)
    write_image(tmp_path / "deep.png", deep)
    (alone,), of_file = model.predict([deep]), model.predict(str(tmp_path / "deep.png"))
    for other in (deep, np.asfortranarray(deep), deep.astype(">u2"), np.stack([deep] * 2)[1]):
        found = model.predict(other)
        for one in (alone, of_file):
            assert (found.mask == one.mask).all()
            assert found.objects.equals(one.objects)
            assert (found.probability == one.probability).all()


def test_probability_is_that_of_the_working_pixel_under_each_pixel_s_centre(model: ImageModel) -> None:
    found = model.predict(draw(97, 130))
    working = found.working_probability
    assert working.shape == (32, 43)
    assert (found.probability.shape, found.probability.dtype) == ((97, 130), np.float32)
    assert 0.5 <= working.min() <= working.max() <= 1  # of two classes the likelier
    for y, x in [(0, 0), (96, 129), (50, 7), (1, 1), (31, 128)]:
        nearest = working[int((y + 0.5) * 32 / 97), int((x + 0.5) * 43 / 130)]
        assert found.probability[y, x] == nearest


def test_objects_are_the_mask_s_components_of_their_size(model: ImageModel) -> None:
    found = model.predict(draw())
    parts, count = label(found.mask == 1, np.ones((3, 3)))
    areas = sorted(area for area in np.bincount(parts.ravel())[1:] if area >= 9)
    assert count > len(areas) > 0
    assert sorted(found.objects["area"].to_pylist()) == areas
    assert set(found.objects["class"].to_pylist()) == {CLASSES[1]}
    assert (found.classes, model.classes) == (CLASSES, CLASSES)


def test_a_notebook_shows_the_picture_and_a_line_says_what_it_is(model: ImageModel) -> None:
    found = model.predict(draw())
    png = found._repr_png_()
    assert np.asarray(Image.open(io.BytesIO(png))).tolist() == np.asarray(found.overlay()).tolist()
    assert repr(found).startswith(f"<image: 130 x 97, {len(found.objects)} objects, confidence 0.")
    assert "disc" in repr(model)


def test_colours_are_in_rgb_order(tmp_path: Path) -> None:
    file = write_model(tmp_path / "m.safetensors", preprocessing=Preprocessing(channels=3))
    colour = np.stack([draw(), draw()[::-1], draw() // 3], axis=2)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    model = open_model(file)
    found, of_file = model.predict(colour), model.predict(tmp_path / "colour.png")
    assert (found.mask == of_file.mask).all()
    assert (found.image == colour).all()
    assert (model.predict(colour[:, :, ::-1]).mask != found.mask).any()


def test_what_comes_of_an_image_does_not_change_with_the_caller_s_array(model: ImageModel) -> None:
    pixels = draw()
    found, picture = model.predict(pixels), model.predict(pixels)._repr_png_()
    pixels[:] = 0
    assert found._repr_png_() == picture


@pytest.mark.parametrize(
    ("words", "options"),
    [("--blend gaussian --tta flips", {"blend": "gaussian", "tta": "flips"}), ("--halo 0", {"halo_px": 0})],
)
def test_options_are_the_job_s_and_the_caller_s_threads_stay(
    file: Path, tmp_path: Path, words: str, options: dict[str, Any]
) -> None:
    before, write = torch.get_num_threads(), tmp_path / "in/a.png"
    write_image(write, draw())
    named = [str(write), "--model", str(file), "--batch", "3", "--threads", "2", *words.split()]
    by_job = predict_by_job(named, tmp_path / "job")
    torch.set_num_threads(before)
    check_alike(open_model(file, batch=3, threads=2, **options).predict(write), by_job["a.png"])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((8, 8)), "image is of type float64; give uint8 or uint16, as the camera stored it"),
        (np.zeros((8, 8), np.int32), "image is of type int32; give"),
        (np.zeros((8, 8), bool), "image is of type bool; give"),
        (np.zeros((8, 8, 4), np.uint8), r"image has the shape \[8, 8, 4\]; give \[H, W\] or \[H, W, 3\]"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"shape \[2, 8, 8, 3\]; .* several images as a list"),
        (np.zeros(8, np.uint8), r"image has the shape \[8\]"),
    ],
)
def test_pixels_of_another_kind_are_refused(model: ImageModel, pixels: NDArray[Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        model.predict(pixels)


def test_an_image_that_cannot_be_used_is_named(
    model: ImageModel, tmp_path: Path, write_archive: WriteArchive
) -> None:
    folder = write_archive("in", sequences=1, frames=2) / "images/s0"
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-40])
    with pytest.raises(TruncatedImage, match=r"1\.png: the file ends after"):
        model.predict([str(folder / "*.png")])
    with pytest.raises(RequestError, match=r"\*\.png names 2 images; give it in a list for them all"):
        model.predict(folder / "*.png")
    with pytest.raises(RequestError, match=r"O\.png is no image: the nearest in "):
        model.predict(folder / "O.png")
    with pytest.raises(RequestError, match="image 1 is of type"):
        model.predict([draw(), "a.png"])
    with pytest.raises(TooLargeImage):
        model.predict(np.broadcast_to(np.uint8(0), (2**20 + 1, 1)))
    assert model.predict([]) == []
    assert not (tmp_path / "predictions").exists()


@pytest.mark.filterwarnings("ignore:sequence '.' has 1 frames:seg.errors.DataWarning")
def test_a_model_that_wants_a_background_says_where_there_is_none(tmp_path: Path) -> None:
    file = write_model(tmp_path / "m.safetensors", **SEEN["background"])
    with pytest.warns(DataWarning, match=r"1 image \(image\) had no background, .* give `background=FILE`"):
        open_model(file).predict(draw())
    write_image(tmp_path / "flat.png", draw())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_model(file, background=tmp_path / "flat.png").predict(draw())


def test_a_model_that_cannot_be_used_so_is_refused(file: Path, tmp_path: Path) -> None:
    for options, said in [
        ({"batch": 0}, "`batch` is 0, below 1"),
        ({"halo_px": 0, "blend": "gaussian"}, "`blend=gaussian` averages windows"),
        ({"device": "cuda"}, "torch finds no GPU"),
        ({"models": (tmp_path / "none",)}, "none is not there"),
        ({"models": (file, file)}, "two files hold the same weights"),
    ]:
        with pytest.raises(RequestError, match=said):
            ImageModel(PredictRequest(**{"images": (), "models": (file,)} | options))
    assert asdict(open_model(file).request)["min_object_px"] == 9
