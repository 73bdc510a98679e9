import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seg.data import DATASETS, convert
from seg.data.convert import Part, convert_dataset, relative_name
from seg.data.images import ImageFiles, split_page
from seg.data.labels import LabelMap, decode_label
from seg.data.layout import Sample
from seg.data.plain import is_plain_layout, open_plain
from seg.data.splits import split_samples
from seg.errors import RequestError
from tests.conftest import WriteArchive
from tests.seg.data.test_camvid_rgb import write_camvid_rgb

REAL = {
    "camvid": "camvid",
    "pets-binary": "oxford-iiit-pet",
    "pets-trimap": "oxford-iiit-pet",
    "pets-breeds": "oxford-iiit-pet",
    "pets-breeds-only": "oxford-iiit-pet",
    "drinks": "drinks",
}


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_conversion(
    out: Path, samples: tuple[Sample, ...], classes: tuple[str, ...], label_map: LabelMap
) -> None:
    """What Pillow reads in `out` is what the adapter reads in the source; images are the same bytes."""
    made = open_plain(out)
    assert not list(out.rglob("*.part"))
    assert made.classes == classes
    assert {sample.name for sample in made.samples} == {sample.name for sample in samples}
    for sample in samples:
        assert (out / "images" / split_page(sample.name)[0]).read_bytes() == sample.image.read_bytes()
        with Image.open(out / "masks" / f"{sample.name}.png") as image:
            mask, size = np.asarray(image), (image.height, image.width)
        assert sample.label is not None
        decode = sample.decoder or decode_label
        expected = decode(sample.label.read_bytes(), sample.label, size, classes, label_map)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("dataset", REAL)
def test_a_part_of_each_real_data_set_becomes_the_plain_layout(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str
) -> None:
    source = shared_data / REAL[dataset]
    data = DATASETS[dataset](source, "")
    split = split_samples(data, 0.2, seed=3)
    samples = (data.test or split.validation)[:10]
    monkeypatch.setattr(convert, "_choose", lambda *_: (samples, "ten of them"))  # the rest takes as long
    part = Part(dataset=dataset, split="test" if data.test else "validation", seed=3)
    done = convert_dataset(part, source, tmp_path / "out")
    assert (done.images, done.new) == (10, 10)
    check_conversion(tmp_path / "out", samples, data.classes, data.label_map)


def test_a_drawn_test_part_is_what_the_same_split_sets_aside(tmp_path: Path) -> None:
    names = [f"{letter}_1" for letter in "abcdefghij"]
    source = write_camvid_rgb(tmp_path / "src", train=" ".join(names[:6]), val="g_1 h_1", test="i_1 j_1")
    found: list[str] = []
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        part = Part(dataset="camvid-rgb", split=split, seed=1, share=0.2, test_share=0.2)
        done = convert_dataset(part, source, tmp_path / split)
        assert done.images == count
        assert done.how.endswith("2 of 10 images, drawn by seed 1; 2 more are the test part")
        found += [path.stem for path in (tmp_path / split / "images").rglob("*.png")]
    assert sorted(found) == names
    with pytest.raises(RequestError, match="`test_share` is 1, not from 0 to below 1"):
        Part(dataset="camvid-rgb", split="test", test_share=1)


def test_the_parts_are_those_of_the_split_and_the_test_part_that_of_the_lists(tmp_path: Path) -> None:
    source = write_camvid_rgb(tmp_path / "src", train="a_1 a_2", val="b_1", test="c_1")
    for split, names in (("train", {"a_1", "a_2"}), ("validation", {"b_1"}), ("test", {"c_1"})):
        done = convert_dataset(Part(dataset="camvid-rgb", split=split), source, tmp_path / split)
        assert (done.images, done.new) == (len(names), len(names))
        assert {path.stem for path in (tmp_path / split / "images").rglob("*.png")} == names
        record = json.loads((tmp_path / split / ".conversion.json").read_text())
        assert record["split"] == split
        assert record["how"] == done.how


def test_seed_and_share_choose_as_they_do_in_training(write_archive: WriteArchive, tmp_path: Path) -> None:
    source = write_archive(sequences=6, frames=1)
    split = split_samples(open_plain(source), 0.4, seed=5)
    convert_dataset(Part(dataset="plain", split="validation", seed=5, share=0.4), source, tmp_path / "out")
    check_conversion(tmp_path / "out", split.validation, ("background", "disc"), ())


def test_final_ids_are_the_data_sets_own_unless_the_command_says_otherwise(tmp_path: Path) -> None:
    source = tmp_path / "src"
    for part in ("train", "val"):
        (source / part).mkdir(parents=True)
        for name in ("image", "label"):
            Image.fromarray(np.array([[0, 11]], np.uint8)).save(source / part / f"{name}.png")
        (source / f"{part}.txt").write_text(f"{part}/image.png {part}/label.png\n")

    def convert_with(out: str, **options: Any) -> list[list[int]]:
        convert_dataset(Part(dataset="camvid", split="train", **options), source, tmp_path / out)
        with Image.open(tmp_path / out / "masks/train/image.png.png") as image:
            return np.asarray(image).tolist()

    assert convert_with("own") == [[0, 255]]
    assert convert_with("given", label_map=((11, 3), (0, 1))) == [[1, 3]]
    with pytest.raises(RequestError, match=r"label.png holds class id 11, not below 11 .* mend or remove it"):
        convert_with("none", label_map=())
    assert not (tmp_path / "none").exists()


def test_pages_share_their_file(tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((4, 5), k, np.uint8)) for k in range(6)]
    (tmp_path / "src/images/s").mkdir(parents=True)
    (tmp_path / "src/masks/s").mkdir(parents=True)
    pages[0].save(tmp_path / "src/images/s/t.tif", save_all=True, append_images=pages[1:])
    for k in (1, 2, 3, 5):
        Image.fromarray(np.full((4, 5), k % 2, np.uint8)).save(tmp_path / f"src/masks/s/t.tif#{k}.png")
    (tmp_path / "src/classes.txt").write_text("a\nb\n")
    done = convert_dataset(Part(dataset="plain", split="train"), tmp_path / "src", tmp_path / "out")
    assert (done.images, done.new) == (2, 2)
    assert sorted(path for path in read_tree(tmp_path / "out") if not path.startswith(".")) == [
        *("classes.txt", "images/s/t.tif", "masks/s/t.tif#1.png", "masks/s/t.tif#2.png")
    ]
    check_conversion(tmp_path / "out", open_plain(tmp_path / "src").samples[:2], ("a", "b"), ())


def test_the_same_command_again_changes_nothing_and_another_is_refused(
    write_archive: WriteArchive, tmp_path: Path
) -> None:
    source, part = write_archive(), Part(dataset="plain", split="train")
    convert_dataset(part, source, tmp_path / "out")
    before = read_tree(tmp_path / "out")
    assert convert_dataset(part, source, tmp_path / "out").new == 0
    shutil.copytree(source, tmp_path / "moved")
    assert convert_dataset(part, tmp_path / "moved", tmp_path / "out").new == 0
    with pytest.raises(RequestError, match=r"another conversion \(it differs in split, data_fingerprint\)"):
        convert_dataset(Part(dataset="plain", split="validation"), source, tmp_path / "out")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(source / "masks/s0/0.png")
    Image.fromarray(np.zeros((64, 96), np.uint8)).save(source / "masks/s1/0.png")
    with pytest.raises(RequestError, match=r"holds another conversion \(it differs in data_fingerprint\)"):
        convert_dataset(part, source, tmp_path / "out")
    assert read_tree(tmp_path / "out") == before


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fourth image is Ctrl-C; the names that were written are kept."""
    written: list[str] = []
    lock, write = threading.Lock(), convert._write_sample

    def stop_at_fourth(files: ImageFiles, folder: Path, record: Any, sample: Sample) -> bool:
        with lock:
            if len(written) == 3:
                raise KeyboardInterrupt
            new = write(files, folder, record, sample)
            written.extend([sample.name] if new else [])
        return new

    monkeypatch.setattr(convert, "_write_sample", stop_at_fourth)
    return written


def test_stopped_half_way_nothing_is_there_and_the_same_command_goes_on(
    write_archive: WriteArchive, tmp_path: Path, interrupted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, part, out = write_archive(frames=9), Part(dataset="plain", split="train"), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(part, source, out)
    assert not out.exists()
    (tmp_path / ".out.part/masks/.7.png.0123abcd.part").write_bytes(b"torn by a kill")
    monkeypatch.undo()
    assert convert_dataset(part, source, out).new == 9 - len(interrupted)
    convert_dataset(part, source, tmp_path / "at once")
    assert read_tree(out) == read_tree(tmp_path / "at once")
    assert not (tmp_path / ".out.part").exists()


def test_what_another_command_began_is_not_gone_on_with(
    write_archive: WriteArchive, tmp_path: Path, interrupted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write_archive(frames=9), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_dataset(Part(dataset="plain", split="train"), source, out)
    monkeypatch.undo()
    assert convert_dataset(Part(dataset="plain", split="validation"), source, out).new == 9
    assert not set(interrupted) & set(read_tree(out / "images"))


@pytest.mark.parametrize("spoiled", ["images/s1/2.png", "masks/s1/2.png"])
def test_an_image_or_label_that_cannot_be_read_is_named_and_nothing_is_left(
    write_archive: WriteArchive, tmp_path: Path, spoiled: str
) -> None:
    source = write_archive(sequences=2)
    (source / "test.txt").write_text("s1/0.png\ns1/1.png\ns1/2.png\n")
    (source / spoiled).write_bytes(b"spoiled")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RequestError, match=r"data: .*images/s1/2.png: .*; mend or remove it"):
        convert_dataset(Part(dataset="plain", split="test"), source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_folders_that_will_not_do_are_refused(write_archive: WriteArchive, tmp_path: Path) -> None:
    source, part = write_archive(), Part(dataset="plain", split="train")
    before = read_tree(tmp_path)
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    for out, text in (
        (source, "is inside .*archive; give a folder outside"),
        (source / "new", "is inside .*archive; give a folder outside"),
        (tmp_path / "link/new", "is inside .*archive; give a folder outside"),
        (tmp_path, "holds other files and no .conversion.json"),
        (tmp_path / "other", "holds other files and no .conversion.json"),
        (tmp_path / "file", "is a file; give an empty or a new folder"),
    ):
        with pytest.raises(RequestError, match=text):
            convert_dataset(part, source, out)
    with pytest.raises(RequestError, match="nowhere is no folder"):
        convert_dataset(part, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(RequestError, match="has no test part in the layout plain; try `split=validation`"):
        convert_dataset(Part(dataset="plain", split="test"), source, tmp_path / "out")
    assert set(read_tree(tmp_path)) == {*before, "file", "other/mine.txt"}


def test_an_empty_folder_is_taken(write_archive: WriteArchive, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_dataset(Part(dataset="plain", split="train"), write_archive(), tmp_path / "out")
    assert is_plain_layout(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dataset": "plane"}, "unknown dataset 'plane'; did you mean plain?"),
        ({"seed": -1}, "`seed` is -1; give 0 or more"),
        ({"share": 0.0}, "`share` is 0.0, not between 0 and 1"),
        ({"share": float("nan")}, "`share` is nan, not between"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        Part(**{"dataset": "plain", "split": "train"} | options)


def test_a_sample_whose_name_leaves_the_folder_is_refused() -> None:
    assert relative_name("a/b c.png", "there") == "a/b c.png"
    with pytest.raises(RequestError, match=r"there: '../a.png' is no name inside a folder"):
        relative_name("../a.png", "there")
