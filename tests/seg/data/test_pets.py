import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet

from seg.data import DATASETS
from seg.data.pets import Trimap, open_pets_breeds, open_pets_breeds_only, open_pets_trimap
from seg.data.splits import split_samples
from seg.errors import LabelMismatch, RequestError
from tests.seg.data.test_images import encode

PET = ("background", "pet")
FILE = Path("annotations/trimaps/a_1.png")


def write_pets(root: Path, trainval: str, test: str | None = None) -> Path:
    """The layout with empty files for every line of the lists."""
    folder = root / "annotations"
    for name, text in (("trainval.txt", trainval), ("test.txt", test)):
        (folder / "trimaps").mkdir(parents=True, exist_ok=True)
        (root / "images").mkdir(exist_ok=True)
        if text is not None:
            (folder / name).write_text(text)
        for line in (text or "").splitlines():
            stem = line.split()[0]
            (root / "images" / f"{stem}.jpg").touch()
            (folder / "trimaps" / f"{stem}.png").touch()
    return root


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_images_and_masks_are_those_that_torchvision_reads(shared_data: Path, split: str) -> None:
    theirs = OxfordIIITPet(shared_data, split, target_types=["segmentation", "category"])
    ours = {name: DATASETS[f"pets-{name}"](shared_data / "oxford-iiit-pet", "") for name in KINDS}
    parts = {name: data.samples if split == "trainval" else data.test for name, data in ours.items()}
    assert all(len(part) == len(theirs) for part in parts.values())
    for place in range(0, len(theirs), 4):
        image, (trimap, category) = theirs[place]
        expected = {
            "binary": np.select([np.asarray(trimap) == 1, np.asarray(trimap) == 2], [1, 0], 255),
            "trimap": np.select([np.asarray(trimap) == 1, np.asarray(trimap) == 2], [1, 0], 2),
            "breeds": np.select([np.asarray(trimap) == 1, np.asarray(trimap) == 2], [category + 1, 0], 255),
            "breeds-only": np.where(np.asarray(trimap) == 1, category, 255),
        }
        for name, part in parts.items():
            sample, size = part[place], (image.height, image.width)
            assert sample.label is not None
            assert sample.decoder is not None
            with Image.open(sample.image) as ours_image:
                assert ours_image.convert("RGB").tobytes() == image.tobytes()
            mask = sample.decoder(sample.label.read_bytes(), sample.label, size, ours[name].classes, ())
            np.testing.assert_array_equal(mask, expected[name])


KINDS = ("binary", "trimap", "breeds", "breeds-only")


def test_classes_are_the_breeds_of_the_lists_in_torchvisions_order(shared_data: Path) -> None:
    theirs = OxfordIIITPet(shared_data).class_to_idx
    classes = open_pets_breeds(shared_data / "oxford-iiit-pet").classes
    assert classes == ("background", "Abyssinian", "american_bulldog", "Bengal")
    assert {name.replace("_", " ").title(): k for k, name in enumerate(classes[1:])} == theirs


def test_chance_splits_trainval_and_leaves_the_test_part_alone(shared_data: Path) -> None:
    data = open_pets_breeds(shared_data / "oxford-iiit-pet")
    split = split_samples(data, 0.05, seed=0)
    assert (len(split.train), len(split.validation), len(data.test)) == (76, 4, 40)
    assert "4 of 80 images" in split.how
    assert not {sample.name for sample in data.samples} & {sample.name for sample in data.test}


def test_a_recipes_pattern_names_the_sequences(shared_data: Path) -> None:
    data = open_pets_trimap(shared_data / "oxford-iiit-pet", r"(.+)_\d+")
    assert {sample.sequence for sample in data.samples} == {"Abyssinian", "american_bulldog", "Bengal"}
    assert data.classes == ("background", "pet", "border")


def test_the_full_set_has_as_many_classes_as_its_list_has_breeds(tmp_path: Path) -> None:
    lines = [f"breed_{k}_{image} {k} 1 {k}\n" for k in range(1, 38) for image in (1, 20)]
    data = open_pets_breeds(write_pets(tmp_path, "#comment\n" + "".join(lines[::-1])))
    assert data.classes == ("background", *(f"breed_{k}" for k in range(1, 38)))
    by_name = {sample.name: sample.decoder for sample in data.samples}
    assert by_name["breed_30_20.jpg"] == Trimap(pet=30, border=255)
    assert data.test == ()
    assert open_pets_breeds_only(tmp_path).classes == data.classes[1:]


@pytest.mark.parametrize(
    ("trainval", "test", "text"),
    [
        ("a_1 1 1\n", None, "trainval.txt, line 1: it is not 'NAME BREED SPECIES NUMBER'"),
        ("a_1 0 1 1\n", None, "line 1: .* breeds from 1"),
        ("a_1 x 1 1\n", None, "line 1: .* is not"),
        ("a_1 1 1 1\na_1 1 1 1\n", None, "trainval.txt, line 2: its image is there twice"),
        ("a_1 1 1 1\nb_1 1 1 1\n", None, "trainval.txt, line 2: breed 1 is another than above"),
        ("a_1 1 1 1\n", "b_1 1 1 1\n", "test.txt, line 1: breed 1 is another than above"),
        ("a_1 1 1 1\nb_1 3 1 1\n", None, "trainval.txt: its 2 breeds have no such numbers; number them"),
        ("a_1 1 1 1\na_2 2 1 1\n", None, "trainval.txt: its 1 breeds have no such numbers; number them"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    tmp_path: Path, trainval: str, test: str | None, text: str
) -> None:
    with pytest.raises(RequestError, match=text):
        open_pets_breeds(write_pets(tmp_path, trainval, test))


@pytest.mark.parametrize("missing", ["images/a_2.jpg", "annotations/trimaps/a_2.png"])
def test_a_listed_file_that_is_missing_is_named_with_the_line(tmp_path: Path, missing: str) -> None:
    (write_pets(tmp_path, "a_1 1 1 1\na_2 1 1 1\n") / missing).unlink()
    with pytest.raises(
        RequestError, match=f"trainval.txt, line 2, field NAME names no file in .*{Path(missing).parent}"
    ):
        open_pets_breeds(tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"has no annotations/trainval.txt; give the folder oxford-iiit-pet"
    ):
        open_pets_breeds(tmp_path)


def test_a_trimap_of_other_values_is_refused() -> None:
    pixels = np.full((3, 4), 2, np.uint8)
    pixels[1, 1] = 4
    with pytest.raises(LabelMismatch, match=r"label annotations/trimaps/a_1.png holds 4; a trimap has 1"):
        Trimap(pet=1, border=255)(encode(pixels, "PNG"), FILE, (3, 4), PET, ())


def test_a_label_map_is_applied_to_the_classes_the_border_among_them() -> None:
    data = encode(np.array([[1, 2, 3]], np.uint8), "PNG")
    assert Trimap(pet=1, border=255)(data, FILE, (1, 3), PET, ()).tolist() == [[1, 0, 255]]
    assert Trimap(pet=1, border=255)(data, FILE, (1, 3), PET, ((255, 1),)).tolist() == [[1, 0, 1]]
    with pytest.raises(LabelMismatch, match="holds class id 7, not below 2"):
        Trimap(pet=7, border=255)(data, FILE, (1, 3), PET, ())


def test_the_decoder_pickles_and_its_repr_says_every_class() -> None:
    decoder = Trimap(pet=3, border=255)
    assert pickle.loads(pickle.dumps(decoder)) == decoder  # noqa: S301 - our own bytes
    assert repr(decoder) == "Trimap(pet=3, border=255, background=0)"
