"""Every wrong request of the users' list: its exit code, its one sentence, and nothing written."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from jobs import score, train, tune
from seg.data import DATASETS
from seg.ledger.ledger import Ledger
from seg.models import MODELS
from seg.recipes import RECIPES
from tests.conftest import WriteArchive
from tests.small import TINY_WORDS, archive_labels, count_by_hand, read_tree, sum_ledger, write_model

RECIPE = (*TINY_WORDS, "--epochs", "1", "--batch", "2")
MAINS = {"score": score.main, "train": train.main, "tune": tune.main}

Screen = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.delenv("FRINGE_WORKERS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def archive(write_archive: WriteArchive) -> Path:
    return write_archive(sequences=2, frames=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "best.safetensors")


def run(verb: str, screen: Screen, *words: object) -> tuple[int, str]:
    """A job's exit code and the last line that it wrote to standard error."""
    screen.readouterr()
    try:
        code = MAINS[verb]([str(word) for word in words])
    except SystemExit as usage:  # tyro's own
        code = usage.code
    return code, (screen.readouterr().err.splitlines() or [""])[-1]  # type: ignore[return-value]


def refused(verb: str, screen: Screen, *words: object) -> str:
    """The sentence of a request that is wrong; nothing but caches was written, here or above."""
    here = Path.cwd()
    before = {name: data for name, data in read_tree(here).items() if not name.startswith("cache/")}
    code, line = run(verb, screen, *words)
    after = {name: data for name, data in read_tree(here).items() if not name.startswith("cache/")}
    assert code == 2, line
    assert after == before
    assert line.startswith(f"{verb}: ")
    return line.removeprefix(f"{verb}: ")


def refused_score(screen: Screen, archive: Path, model: Path, *words: object) -> str:
    line = refused("score", screen, archive, "--model", model, "--out", "out", "--workers", 0, *words)
    assert not Path("out").exists()
    return line


def test_a_missing_archive(capfd: Screen, tmp_path: Path, model: Path) -> None:
    line = refused_score(capfd, tmp_path / "nowhere", model)
    assert line == f"archive {tmp_path}/nowhere is no folder; give the folder that holds the images"


def test_an_archive_without_images(capfd: Screen, tmp_path: Path, model: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    mend = "give the folder of the images"
    assert refused_score(capfd, empty, model) == f"archive {empty} holds no image (found: nothing); {mend}"
    (empty / "notes.md").write_text("")
    (empty / "frames.csv").write_text("")
    line = refused_score(capfd, empty, model)
    assert line == f"archive {empty} holds no image (found: 1 .csv, 1 .md); {mend}"


def test_a_missing_model_file(capfd: Screen, archive: Path, tmp_path: Path) -> None:
    line = refused_score(capfd, archive, tmp_path / "none.safetensors")
    assert line == f"model {tmp_path}/none.safetensors is not there; give the best.safetensors of a run"


def test_a_model_file_of_another_kind(capfd: Screen, archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"PK\x03\x04 a zip, as torch.save writes")
    line = refused_score(capfd, archive, file)
    assert line.startswith(f"model {file} is no safetensors file (")
    assert line.endswith("); give one that train wrote")


def test_a_safetensors_file_that_is_not_ours(capfd: Screen, archive: Path, model: Path) -> None:
    with safe_open(model, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
    save_file(tensors, model)
    line = refused_score(capfd, archive, model)
    assert line == f"model {model} has no metadata 'fringe'; give one that train wrote"


def rewrite_card(model: Path, **changes: object) -> None:
    with safe_open(model, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
        values = json.loads(opened.metadata()["fringe"]) | changes
    del values["provenance"]["metadata_sha256"]
    save_file(tensors, model, {"fringe": json.dumps(values)})


def test_a_model_file_of_another_format_version(capfd: Screen, archive: Path, model: Path) -> None:
    rewrite_card(model, format_version=7)
    line = refused_score(capfd, archive, model)
    assert line == f"model {model}: format_version is 7, this fringe reads 1; train it again"


def test_a_model_file_whose_weights_are_of_another_network(capfd: Screen, archive: Path, model: Path) -> None:
    rewrite_card(model, backbone="resnet34")
    line = refused_score(capfd, archive, model)
    assert line.startswith(f"model {model} has the unknown tensor features.")
    assert line.endswith("it is of another architecture")


def test_labels_with_other_classes_than_the_model(capfd: Screen, archive: Path, model: Path) -> None:
    (archive / "classes.txt").write_text("background\ncell\n")
    line = refused_score(capfd, archive, model)
    assert line == (
        f"labels {archive}/classes.txt names the classes background, cell but the model knows background, "
        "disc; give labels or a model with the same classes"
    )
    line = refused_score(capfd, archive / "images", model, "--labels", archive / "masks")
    assert line.startswith(f"labels {archive}/classes.txt names the classes background, cell but")


def test_labels_whose_names_fit_no_image(capfd: Screen, archive: Path, model: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for mask in (archive / "masks").rglob("*.png"):
        file = labels / mask.parent.name / f"{mask.stem}_mask.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(mask, file)
    words = ("--labels", labels)
    line = refused_score(capfd, archive / "images", model, *words)
    assert line == (
        f"--labels {labels}: no file in it is the label of an image of the archive: s0/0.png would want "
        "s0/0.png.png, s0/0.png, s0/0.txt or s0/0.json; unused: s0/0_mask.png, s0/1_mask.png, "
        "s1/0_mask.png, ... (4 .png); rename the files after their images, or give the folder that holds the "
        "labels"
    )
    assert refused_score(capfd, archive / "images", model, *words, "--dry-run") == line
    shutil.rmtree(labels)
    labels.mkdir()
    line = refused_score(capfd, archive / "images", model, *words)
    assert f"--labels {labels}: no file in it is the label of an image of the archive: it is empty" in line


@pytest.mark.parametrize("place", ["out", "images/out", "masks/out", "."])
def test_out_inside_the_archive(capfd: Screen, archive: Path, model: Path, place: str) -> None:
    out = archive / place
    line = refused("score", capfd, archive, "--model", model, "--out", out, "--workers", 0)
    assert line == (
        f"--out {out.resolve()} lies inside the archive, so masks would become images; move it outside"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--workers -1", "--workers is -1, below 0; try --workers 1"),
        ("--limit 0", "--limit is 0, below 1; try --limit 1"),
        ("--limit -3", "--limit is -3, below 1; try --limit 1"),
        ("--batch 0", "--batch is 0, below 1; try --batch 1"),
        ("--threads 0", "--threads is 0, below 1; try --threads 1"),
        (
            "--workers 1 --threads 4096",
            "--workers 1 of 4096 threads each: there are {cpus} CPUs; try --threads 1",
        ),
        ("--workers 4096", "--workers 4096: there are {cpus} CPUs; try --workers {cpus}"),
        ("--min-object 0", "--min-object is 0, below 1; try --min-object 1"),
        ("--stall-minutes 0", "--stall-minutes is 0, not above 0; try --stall-minutes 10"),
        (
            "--per-image-timeout -5",
            "--per-image-timeout is -5, below 0; try --per-image-timeout 600, or 0 for none",
        ),
        (
            "--per-image-timeout 5",
            "--per-image-timeout ends a worker, and --workers 0 has none; try --workers 1",
        ),
        (
            "--workers 1 --gpus-per-worker -1",
            "--gpus-per-worker is -1, not 0, a share of a GPU (0.5) or 1; try --gpus-per-worker 1",
        ),
        (
            "--workers 1 --gpus-per-worker 2",
            "--gpus-per-worker is 2, not 0, a share of a GPU (0.5) or 1; try --gpus-per-worker 1",
        ),
        (
            "--deadline yesterday",
            "--deadline 'yesterday' is neither a time of day nor an ISO time; try 07:00 or 2027-01-31T07:00",
        ),
        ("--deadline 2020-01-01T07:00", "--deadline 2020-01-01T07:00 is past; give a later time"),
        (
            "--shard crops",
            "--shard crops spreads an image's cores over workers: not with --workers 0 or --blend gaussian",
        ),
        ("--halo 32", "recipe: tiling.halo_px 32 leaves no core in a crop of (64, 64); lower it"),
    ],
)
def test_numbers_that_score_cannot_work_with(
    capfd: Screen, archive: Path, model: Path, words: str, sentence: str
) -> None:
    line = refused_score(capfd, archive, model, *words.split())
    assert line == sentence.format(cpus=len(os.sched_getaffinity(0)))


def test_a_name_that_leaves_no_room_for_its_mask_s(capfd: Screen, archive: Path, model: Path) -> None:
    name, image = "ü" * 124 + ".png", archive / "images" / "s0" / "0.png"
    shutil.copy(image, image.with_name(name))
    line = refused_score(capfd, archive, model)
    assert line == (
        f"archive: s0/{name}: the name is longer than 251 bytes and leaves no room for its mask's .png; "
        "rename the file, leave it out with --exclude, or give --masks none"
    )
    words = ("--model", model, "--out", "out", "--workers", 0, "--exclude", "*ü*")
    code, _ = run("score", capfd, archive, *words)
    assert code == 0


def test_two_images_that_yolo_would_have_in_one_file(capfd: Screen, archive: Path, model: Path) -> None:
    image = archive / "images" / "s0" / "0.png"
    shutil.copy(image, image.with_suffix(".bmp"))
    assert refused_score(capfd, archive, model, "--export", "yolo") == (
        "exports/yolo/s0/0.txt would be of s0/0.bmp and of s0/0.png; export coco, or rename or leave out one "
        "image"
    )


def test_an_unknown_value_is_a_usage_error(capfd: Screen, archive: Path, model: Path) -> None:
    code, _ = run("score", capfd, archive, "--model", model, "--out", "out", "--masks", "jpeg")
    assert code == 2
    assert not Path("out").exists()


BAD_IMAGES = {
    "zero.png": ("empty", "the file has no bytes"),
    "cut.png": ("truncated", "the file ends after"),
    "text.png": ("unreadable", "the content is no PNG, BMP, TIFF, JPEG or NPY image"),
    "s0/size.png": ("label_mismatch", "is 90 x 64 pixels but its image is 96 x 64 pixels"),
    "s0/id.png": ("label_mismatch", "holds class id 9, not below 2 and not in label_map"),
}


def add_bad_images(archive: Path) -> None:
    images, masks = archive / "images", archive / "masks"
    good = (images / "s0" / "0.png").read_bytes()
    (images / "zero.png").write_bytes(b"")
    (images / "cut.png").write_bytes(good[: len(good) // 2])
    (images / "text.png").write_text("frame lost at 3 a.m.\n" * 9)
    for name, mask in (("size", np.zeros((64, 90), np.uint8)), ("id", np.full((64, 96), 9, np.uint8))):
        (images / "s0" / f"{name}.png").write_bytes(good)
        cv2.imwrite(str(masks / "s0" / f"{name}.png"), mask)


@pytest.mark.filterwarnings("always:NONE of the 3 images of the rehearsal")
def test_bad_images_among_good_ones_are_quarantined_and_the_rest_is_scored(
    capfd: Screen, archive: Path, model: Path
) -> None:
    good = archive_labels(archive)
    add_bad_images(archive)
    words = (archive, "--model", model, "--out", "out", "--workers", 0)
    assert run("score", capfd, *words)[0] == 3
    ledger = Ledger(Path("out"))
    assert ledger.finished_images() == set(good)
    rows = {row["image"]: row for part in ledger.quarantine_rows() for row in part.to_pylist()}
    assert {image: row["reason"] for image, row in rows.items()} == {
        image: reason for image, (reason, _) in BAD_IMAGES.items()
    }
    assert all(BAD_IMAGES[image][1] in row["detail"] for image, row in rows.items())
    assert all(row["attempts"] == 1 for row in rows.values())
    assert sum_ledger(Path("out")) == count_by_hand(Path("out/masks"), good)
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["images_found"], summary["images_scored"], summary["images_quarantined"]) == (9, 4, 5)
    assert summary["quarantine_reasons"] == {"label_mismatch": 2, "empty": 1, "truncated": 1, "unreadable": 1}
    before = {name: data for name, data in read_tree(Path("out")).items() if name.endswith(".parquet")}
    assert run("score", capfd, *words)[0] == 3  # also when nothing was left to do
    assert {name: data for name, data in read_tree(Path("out")).items() if name in before} == before
    assert len(list(Path("out").rglob("*.parquet"))) == len(before)
    assert json.loads(Path("out/summary.json").read_text())["images_skipped"] == 4


@pytest.mark.filterwarnings("always:NONE of the 1 images of the rehearsal")
def test_an_archive_of_bad_images_alone_is_quarantined(capfd: Screen, tmp_path: Path, model: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "zero.png").write_bytes(b"")
    assert run("score", capfd, "bad", "--model", model, "--out", "out", "--workers", 0)[0] == 3
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["images_scored"], summary["images_quarantined"], summary["miou"]) == (0, 1, None)


def refused_training(screen: Screen, data: Path, *words: object) -> str:
    line = refused("train", screen, *RECIPE, "--data", data, "--out", "out", "--workers", 0, *words)
    assert not Path("out").exists()
    return line


@pytest.mark.parametrize(("image", "reason"), [(image, detail) for image, (_, detail) in BAD_IMAGES.items()])
def test_training_refuses_a_bad_image_or_label_by_name(
    capfd: Screen, archive: Path, image: str, reason: str
) -> None:
    add_bad_images(archive)
    for other in BAD_IMAGES.keys() - {image}:
        (archive / "images" / other).unlink()
        (archive / "masks" / other).unlink(missing_ok=True)
    if "/" not in image:
        shutil.copy(archive / "masks/s0/0.png", archive / "masks" / image)
    line = refused_training(capfd, archive)
    assert line.startswith(f"data: {archive}/images/{image}: ")
    assert reason in line
    assert line.endswith("; mend or remove it")


def test_training_data_without_labels(capfd: Screen, archive: Path) -> None:
    shutil.rmtree(archive / "masks")
    line = refused_training(capfd, archive)
    assert line == (
        f"data {archive} has no labels: neither masks/ nor boxes/ beside images/; give the folder that holds "
        "them, --labels DIR"
    )
    (archive / "masks").mkdir()
    line = refused_training(capfd, archive)
    assert line == f"data {archive}: none of its 4 images has a label in masks/"


def test_data_of_which_no_pixel_counts(capfd: Screen, archive: Path) -> None:
    for part, ignored in (("validation", "s0"), ("training", "s1")):
        for mask in (archive / "masks").rglob("*.png"):
            cv2.imwrite(str(mask), np.full((64, 96), 255 if mask.parent.name == ignored else 1, np.uint8))
        line = refused_training(capfd, archive)
        assert line.startswith(f"data {archive}: every pixel of the 2 {part} images is ignored")
        assert line.endswith("label some, or use another --seed")


def write_as_fiji_does(archive: Path) -> None:
    """What was 1 in the masks of an archive is 255, and nothing is ignored."""
    for file in (archive / "masks").rglob("*.png"):
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), np.where(mask == 1, np.uint8(255), np.uint8(0)))


def test_masks_of_0_and_255_alone_are_refused_until_label_map_names_255(
    capfd: Screen, archive: Path, model: Path
) -> None:
    labels = archive_labels(archive)
    write_as_fiji_does(archive)
    mend = "--label-map 255 1 where 255 marks the objects"
    for verb in ("train", "tune"):
        line = refused(verb, capfd, *RECIPE, "--data", archive)
        assert line.startswith(f"data {archive}: the 4 masks hold no id but 0 and 255, and 255 is ignored")
        assert mend in line
    line = refused_score(capfd, archive, model)
    assert line.startswith(f"labels {archive}/masks: the 4 masks hold no id but 0 and 255")
    assert mend in line
    refused_score(capfd, archive, model, "--dry-run")
    words = (archive, "--model", model, "--workers", 0, "--out")
    assert run("score", capfd, *words, "out", "--label-map", 255, 1)[0] == 0
    for label in labels.values():
        mask = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(label), mask // 255)
    assert sum_ledger(Path("out")) == count_by_hand(Path("out/masks"), labels)
    line = refused("score", capfd, *words, "out", "--rescore-changed")
    assert "holds another run, with other values of label_map" in line


@pytest.mark.parametrize("pair", [(255, 2), (256, 1), (-1, 1), (3, -1)])
def test_a_label_map_that_names_no_id_or_no_class(
    capfd: Screen, archive: Path, model: Path, pair: tuple[int, int]
) -> None:
    line = refused_score(capfd, archive, model, "--label-map", *pair)
    assert line == (
        f"--label-map {pair[0]} {pair[1]}: the first is the id in a mask, 0 to 255, the second one of the "
        "model's classes, 0 to 1, or 255 to ignore it; try --label-map 255 1"
    )


def test_missing_training_data(capfd: Screen, tmp_path: Path) -> None:
    line = refused_training(capfd, tmp_path / "none")
    assert line == f"data {tmp_path}/none is no folder; give the one that holds the data set"


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_an_unknown_recipe_names_the_nearest(capfd: Screen, verb: str) -> None:
    line = refused(verb, capfd, "interferogram-smal", "--out", "out")
    assert line == (
        "unknown recipe 'interferogram-smal'; did you mean interferogram-small or "
        f"interferogram-fcn32-small or interferogram-icnet? known: {', '.join(RECIPES)}"
    )
    assert refused(verb, capfd, "").startswith("unknown recipe ''; known: interferogram-small, ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "--crops.size-px 100 100",
            "recipe: crops.size_px is (100, 100), not multiples of 32; try --crops.size-px 512 512",
        ),
        ("--epochs 0", "recipe: epochs is 0, not a positive whole number; try --epochs 1"),
        ("--optimizer.lr nan", "recipe: optimizer.lr is nan, not above 0; try --optimizer.lr 1e-3"),
        (
            "--crops.size-px 128 64",
            "recipe: crops.size_px is (128, 64) but s1/0.png has (64, 96) pixels at working size; "
            "lower --crops.size-px",
        ),
        ("--workers -1", "--workers is -1, below 0; try --workers 1"),
        ("--batch 1 --workers 2", "--workers 2 share a batch of 1; try --batch 2"),
        ("--limit 0", "--limit is 0; give 1 or more, or leave it out"),
        ("--seed -1", "--seed is -1; give 0 or more"),
        (
            "--class-weights 1 2 3",
            "recipe: class_weights has 3 values for 2 classes in the data; give one for each, or none",
        ),
        (
            "--model unett",
            f"unknown architecture 'unett'; did you mean unet or icnet? known: {', '.join(MODELS)}",
        ),
        ("--loss focus", "unknown loss 'focus'"),
        ("--dataset plane", f"unknown dataset 'plane'; did you mean plain? known: {', '.join(DATASETS)}"),
        ("--frames 3", "recipe: frames is 3 but unet sees one image; try --frames 1"),
        (
            "--output-weights 1 2",
            "recipe: output_weights has 2 values for 1 outputs of unet; give one for each, or none",
        ),
        ("--model-options n_layers 3", "unet takes no options, but n_layers is given; leave it out"),
        (
            "--weights gone.pth",
            "weights gone.pth is neither none nor imagenet nor a file that is there and ends in .pth or .pt "
            "or .safetensors; check the path",
        ),
    ],
)
def test_settings_that_train_and_tune_cannot_work_with(
    capfd: Screen, archive: Path, words: str, sentence: str
) -> None:
    line = refused_training(capfd, archive, *words.split())
    assert line == sentence or (sentence.startswith("unknown loss") and line.startswith(sentence))
    if "--workers" not in words:  # tune has none
        options = (*RECIPE, "--data", archive, "--out", "out", *words.split())
        assert refused("tune", capfd, *options) == line


def test_a_search_without_trials(capfd: Screen, archive: Path) -> None:
    line = refused("tune", capfd, *RECIPE, "--data", archive, "--out", "out", "--trials", 0)
    assert line == "--trials is 0, below 1; try --trials 16"


@pytest.mark.parametrize("verb", ["score", "train", "tune"])
def test_a_cluster_that_does_not_answer(
    capfd: Screen, archive: Path, model: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    words = {"score": (archive, "--model", model)}.get(verb, (*RECIPE, "--data", archive))
    line = refused(verb, capfd, *words, "--out", "out")
    assert line == ("RAY_ADDRESS is 127.0.0.1:1 but nothing answers there; start the cluster, or unset it")


@pytest.mark.parametrize("value", ["abc", "0", "-1", "", "1.5", "²"])
@pytest.mark.parametrize("verb", ["score", "train"])
def test_a_number_of_workers_in_the_environment_that_is_none(
    capfd: Screen, archive: Path, model: Path, monkeypatch: pytest.MonkeyPatch, verb: str, value: str
) -> None:
    monkeypatch.setenv("FRINGE_WORKERS", value)
    words = {"score": (archive, "--model", model)}.get(verb, (*RECIPE, "--data", archive))
    line = refused(verb, capfd, *words, "--out", "out")
    assert line == f"FRINGE_WORKERS is {value!r}, not a number of workers; set it to 1, or unset it"


def test_another_scoring_in_the_same_folder_names_the_field(
    capfd: Screen, archive: Path, model: Path
) -> None:
    words = (archive, "--model", model, "--out", "out", "--workers", 0)
    assert run("score", capfd, *words)[0] == 0
    out = Path("out").resolve()
    shutil.copytree(archive / "masks", archive / "others")
    for other, difference in (
        (("--batch", 2), "batch 4 instead of 2"),
        (("--halo", 0), "halo_px 16 instead of 0"),
        (("--masks", "none"), "masks png instead of none"),
        (("--threads", 2), "threads 1 instead of 2"),
        (("--labels", archive / "others"), f"labels {archive}/masks instead of {archive}/others"),
    ):
        line = refused("score", capfd, *words, *other)
        assert line == f"--out {out} holds another run, with {difference}; give another --out"
    other = write_model(Path("other.safetensors"), architecture="fcn")
    line = refused("score", capfd, archive, "--model", other, "--out", "out", "--workers", 0)
    assert f"--out {out} holds another run, with model_sha256 " in line


def test_another_training_in_the_same_folder_names_the_field(capfd: Screen, archive: Path) -> None:
    words = (*RECIPE, "--data", archive, "--out", "out", "--workers", 0)
    assert run("train", capfd, *words)[0] == 0
    out = Path("out").resolve()
    for other, difference in (
        (("--seed", 1), "seed 0 instead of 1"),
        (("--optimizer.lr", "0.5"), "recipe.optimizer.lr 0.003 instead of 0.5"),
        (("--batch", 3), "recipe.batch "),
        (("--limit", 1), "data_fingerprint "),
    ):
        line = refused("train", capfd, *words, *other)
        assert line.startswith(f"--out {out} holds another run, with {difference}")
    line = refused("tune", capfd, *RECIPE, "--data", archive, "--out", "out", "--trials", 2)
    assert line == f"--out {out} holds another run, with kind None instead of search; give another --out"


@pytest.mark.parametrize("verb", ["score", "train"])
def test_a_folder_that_holds_other_files(capfd: Screen, archive: Path, model: Path, verb: str) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("")
    words = {"score": (archive, "--model", model)}.get(verb, (*RECIPE, "--data", archive))
    line = refused(verb, capfd, *words, "--out", "out", "--workers", 0)
    assert line == (
        f"--out {Path('out').resolve()} holds other files and no run.json; give an empty or a new folder"
    )
