"""A handful of images through the job, beside what score gives of the same ones."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs import predict, score
from seg.ledger.ledger import Ledger
from seg.recipe import Preprocessing
from tests.conftest import WriteArchive
from tests.small import CLASSES, ledger_rows, read_tree, write_image, write_model, write_odd_archive

Predict = Callable[..., int]
BARE = Preprocessing(channels=1)
pytestmark = pytest.mark.filterwarnings("always")  # warnings are a job's lines


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


def run(model: Path, *words: object) -> int:
    return predict.main([*map(str, words), "--model", str(model)])


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


SEEN = {
    "alone": {},
    "background": {"preprocessing": Preprocessing(channels=1, background_every=1)},
    "frames": {"architecture": "icnet-gru", "frames": 3},
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("alone", ()), ("alone", ("--batch", "3", "--blend", "gaussian")), ("background", ()), ("frames", ())],
)
def test_masks_and_objects_are_those_that_score_writes(
    tmp_path: Path, write_archive: WriteArchive, kind: str, options: tuple[str, ...]
) -> None:
    model, archive = write_model(tmp_path / "m.safetensors", **SEEN[kind]), tmp_path / "odd/images"
    if kind == "alone":
        write_odd_archive(tmp_path / "odd")
    else:
        archive = write_archive("odd", sequences=2, frames=6, size=(70, 96)) / "images"
    words = ["--model", str(model), "--min-object", "9", *options]
    assert score.main([str(archive), *words, "--out", "scores", "--workers", "0", "--overlays", "png"]) == 0
    named = "odd/images/**/*.*" if kind == "alone" else "odd/images/s1/[25].png"
    words += ["--out", "few", "--archive", "odd/images"]
    assert predict.main([named, *words]) == 0
    for folder in ("masks", "overlays"):
        few, scored = read_tree(tmp_path / "few" / folder), read_tree(tmp_path / "scores" / folder)
        names = scored if kind == "alone" else [f"s1/{k}.png.png" for k in (2, 5)]
        assert few == {name: scored[name] for name in names}
    tables = [(tmp_path / folder / "objects.csv").read_text().splitlines() for folder in ("few", "scores")]
    assert len(tables[0]) > 2
    assert tables[0] == [line for line in tables[1] if kind == "alone" or re.match(r'image|"s1/[25]', line)]
    rows = {row["image"]: row for row in ledger_rows(tmp_path / "scores")}
    objects = [row for part in Ledger(tmp_path / "scores").objects() for row in part.to_pylist()]
    for image in read_summary(tmp_path / "few")["images"]:
        row = rows[image["image"]]
        assert list(image["class_pixels"].values()) == row["class_pixels"]
        same = ("sha256", "height", "width", "channels", "bit_depth", "background_frames", "confidence")
        assert {name: image[name] for name in same} == {name: row[name] for name in same}
        expected = [found for found in objects if found["image"] == image["image"]]
        assert [found["class"] for found in image["objects"]] == [
            CLASSES[one["class_id"]] for one in expected
        ]
        for found, one in zip(image["objects"], expected, strict=True):
            assert found == {
                "class": found["class"],
                **{name: one[name] for name in found if name != "class"},
            }


def test_an_image_gets_mask_overlay_and_tables_and_nothing_else_is_written(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    write_image(tmp_path / "in/deep.png", random.integers(0, 4000, (70, 90), np.uint16))
    assert run(model, "in/deep.png", "--min-object", "5") == 0
    (folder,) = (tmp_path / "predictions").iterdir()
    assert folder.name.startswith("in-")
    files = read_tree(folder)
    assert files.keys() == {
        *("masks/deep.png.png", "overlays/deep.png.png", "objects/deep.png.csv"),
        *("run.json", "summary.json", "objects.csv"),
    }
    with Image.open(folder / "masks/deep.png.png") as picture:
        mask = np.asarray(picture)
        assert picture.mode == "P"
        assert picture.getpalette() == list(bytes.fromhex("3b435456b4e9"))  # as in reports
    assert mask.shape == (70, 90)
    assert mask.dtype == np.uint8
    summary = read_summary(folder)
    counted = dict(zip(CLASSES, np.bincount(mask.ravel(), minlength=2).tolist(), strict=True))
    assert summary["class_pixels"] == counted
    components, _ = cv2.connectedComponents((mask == 1).astype(np.uint8), connectivity=8)
    large = [k for k in range(1, components) if np.count_nonzero(_ == k) >= 5]
    assert summary["class_objects"] == {"background": 0, "disc": len(large)}
    rows = list(csv.DictReader(files["objects/deep.png.csv"].decode().splitlines()))
    (image,) = summary["images"]
    assert [{name: str(value) for name, value in one.items()} for one in image["objects"]] == rows
    said = capsys.readouterr().out
    assert f"deep.png  90 x 70  {len(large):>7}" in said
    assert f"{counted['disc']:,}  {100 * counted['disc'] / 6300:.2f} %" in said
    assert said.endswith(f"predict: 1 image predicted; {folder}\n")


def test_a_folder_begun_with_gray_masks_goes_on_with_them(
    tmp_path: Path, model: Path, write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive("in", sequences=1, frames=3)
    words = ["in/images", "--model", str(model), "--workers", "0"]
    assert score.main([*words, "--out", "old", "--limit", "1", "--masks", "gray"]) == 0
    begun = json.loads((tmp_path / "old/run.json").read_text())
    assert begun["masks"] == "png"
    assert "masks_form" not in begun  # as before there was a palette
    assert score.main([*words, "--out", "old"]) == 0
    assert score.main([*words, "--out", "new"]) == 0
    assert json.loads((tmp_path / "old/run.json").read_text()) == begun
    assert json.loads((tmp_path / "new/run.json").read_text()) == begun | {"masks_form": "palette"}
    for name in read_tree(tmp_path / "old/masks"):
        gray, coloured = (Image.open(tmp_path / folder / "masks" / name) for folder in ("old", "new"))
        assert (gray.mode, coloured.mode) == ("L", "P")
        assert np.array_equal(gray, coloured)
    assert score.main([*words, "--out", "new", "--masks", "gray"]) == 2
    assert "holds another run, with masks_form palette instead of None" in capsys.readouterr().err
    assert score.main([*words, "--out", "new", "--overlays", "png"]) == 2
    assert "holds another run, with overlays None instead of png" in capsys.readouterr().err
    assert score.main([*words, "--out", "none", "--masks", "none", "--export", "masks"]) == 2
    said = "--export masks: with --masks none there are none to export; give --masks png\n"
    assert capsys.readouterr().err.endswith(said)
    assert score.main([*words, "--out", "new", "--export", "masks"]) == 0
    assert set(read_tree(tmp_path / "new/exports/masks")) == {f"s0/{k}.png" for k in range(3)}
    assert run(model, "in/images/s0/0.png", "--out", "few") == 0
    file = tmp_path / "few/run.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "masks_form"}))
    assert run(model, "in/images/s0/0.png", "--out", "few") == 0
    with Image.open(tmp_path / "few/masks/0.png.png") as old:
        assert old.mode == "L"


def test_the_same_command_gives_the_same_files_and_another_one_is_refused(
    tmp_path: Path, model: Path, write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive("in", sequences=1, frames=2)
    assert run(model, "in/images/s0/0.png", "--out", "out") == 0
    first = read_tree(tmp_path / "out")
    assert run(model, "in/images/s0/0.png", "--out", "out", "--overlays", "none") == 0
    again = read_tree(tmp_path / "out")
    assert {name for name in first if first[name] != again[name]} <= {"summary.json"}  # which has a time
    assert run(model, "in/images/s0/1.png", "--out", "out", "--overlays", "none") == 0
    assert read_tree(tmp_path / "out").keys() - first.keys() == {"masks/1.png.png", "objects/1.png.csv"}
    (tmp_path / "run").mkdir()
    best = shutil.copy(model, tmp_path / "run" / "best.safetensors")
    assert run(Path(best).parent, "in/images/s0/1.png", "--out", "out", "--overlays", "none") == 0
    capsys.readouterr()
    before = read_tree(tmp_path / "out")
    assert run(model, "in/images/s0/0.png", "--out", "out", "--batch", "2") == 2
    said = capsys.readouterr().err
    assert said.endswith("out holds another run, with batch 4 instead of 2; give another --out\n")
    assert score.main(["in/images/s0", "--model", str(model), "--out", "out", "--workers", "0"]) == 2
    assert "holds another run, with job predict instead of None" in capsys.readouterr().err
    assert read_tree(tmp_path / "out") == before


def test_a_bad_image_is_named_and_the_others_go_on(
    tmp_path: Path, model: Path, write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_archive("in", sequences=1, frames=3) / "images/s0"
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-40])
    assert run(model, "in/images/s0/*.png", "--out", "out") == 3
    said = capsys.readouterr()
    assert "1.png is left out, truncated: the file ends after" in said.err
    assert "predict: 2 images predicted, 1 left out; " in said.out
    assert set(read_tree(tmp_path / "out/masks")) == {"0.png.png", "2.png.png"}
    summary = read_summary(tmp_path / "out")
    assert [one["image"] for one in summary["images"]] == ["0.png", "2.png"]
    assert [(one["image"], one["reason"]) for one in summary["quarantine"]] == [("1.png", "truncated")]
    assert run(model, "in/images/s0/1.png", "--out", "out") == 3
    assert "predict: 0 images predicted, 1 left out; " in capsys.readouterr().out


def test_what_a_model_sees_besides_the_image_is_said(
    tmp_path: Path, write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive("in", sequences=1, frames=3)
    clip = write_model(tmp_path / "clip.safetensors", **SEEN["frames"])
    assert run(clip, "in/images/s0/2.png") == 0
    said = "the model sees 3 frames: an image and those before it in its sequence"
    assert said + "\n" in capsys.readouterr().err
    assert run(clip, "in/images/s0/[012].png") == 0
    assert said + "; 0.png and 1 more: " in capsys.readouterr().err
    mean = write_model(tmp_path / "mean.safetensors", **SEEN["background"])
    assert run(mean, "in/images/s0/2.png") == 0
    said = capsys.readouterr().err
    assert "background: the mean of its sequence's frames; --background FILE gives a measured one" in said
    assert "warning: 1 image (2.png) had no background, which the model was trained with" in said
    assert run(mean, "in/images/s0/2.png", "--background", "in/images/s0/0.png") == 0
    assert "background" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "name an image at least, or a pattern in quotes"),
        (("in/images/s0/O.png",), "is no image: the nearest in .*s0: 0.png"),
        (("in/*.tif",), "is no image: .*/in holds none"),
        (("in/images",), r"in/images is a folder; name its images, 'in/images/\*.png', or score it"),
        (("in/images/s0/0.png", "--batch", "0"), "--batch is 0, below 1; try --batch 1"),
        (("in/images/s0/0.png", "--device", "cuda"), "--device cuda: torch finds no GPU that it can use"),
        (
            ("in/images/s0/0.png", "--archive", "other"),
            "--archive other does not hold .*0.png; give a folder",
        ),
        (("in/images/s0/0.png", "--halo", "0", "--blend", "gaussian"), "--blend gaussian averages windows"),
        (("in/images/s0/0.png", "--background", "in/classes.txt"), "--background .*txt cannot be read"),
    ],
)
def test_a_wrong_request_is_2_and_one_sentence_and_nothing_is_written(
    tmp_path: Path,
    model: Path,
    write_archive: WriteArchive,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_archive("in", sequences=1, frames=1)
    before = read_tree(tmp_path)
    assert run(model, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("predict: ")
    assert re.search(said, line), line
    assert read_tree(tmp_path) == before
    assert not (tmp_path / "predictions").exists()


def test_an_image_beside_its_predictions_keeps_its_sequence(
    tmp_path: Path, write_archive: WriteArchive
) -> None:
    folder = write_archive("in", sequences=1, frames=6) / "images/s0"
    mean = write_model(tmp_path / "mean.safetensors", **SEEN["background"])
    assert run(mean, folder / "3.png", "--out", folder / "seen") == 0
    first = read_tree(folder / "seen/masks")
    assert read_summary(folder / "seen")["images"][0]["background_frames"] == 6
    assert run(mean, folder / "3.png", "--out", folder / "seen") == 0
    assert read_tree(folder / "seen/masks") == first
