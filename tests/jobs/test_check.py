import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.session import Session
from cluster.train import plan_training
from jobs import train
from jobs.check import main
from jobs.options import parse
from seg.data.images import ImageFiles, decode_image
from tests.conftest import WriteArchive
from tests.small import TINY_WORDS, read_tree, write_image

Mask = NDArray[np.uint8]


def move(
    root: Path, images: str, labels: str, suffix: str, ending: str, change: Callable[[Mask], Mask]
) -> Path:
    """Lay an archive out as others do: folders, a suffix, an ending, other ids, and no classes.txt."""
    (root / "classes.txt").unlink()
    for mask in sorted(root.glob("masks/*/*.png")):
        pixels = np.asarray(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED), np.uint8)
        mask.unlink()
        name = f"{mask.parent.name}/{mask.stem}{suffix}{ending}"
        write_image(root / labels / name, change(pixels))
    (root / "images").rename(root / "moved")
    (root / "moved").rename(root / images)
    return root


def to_255(mask: Mask) -> Mask:
    return np.where(mask == 1, 255, 0).astype(np.uint8)


def number_halves(mask: Mask) -> Mask:
    """Two ids for one object, as masks that number objects have them."""
    mask[:32][mask[:32] == 1] = 2
    return np.where(mask == 255, 0, mask).astype(np.uint8)


@pytest.mark.parametrize(
    "layout",
    [
        ("images", "masks", "", ".png", to_255),
        ("images", "labels", "_mask", ".png", to_255),
        ("raw", "ground truth", "", ".tif", number_halves),
    ],
)
def test_a_training_begins_with_the_command_that_is_printed(
    write_archive: WriteArchive,
    idle: Session,
    capsys: pytest.CaptureFixture[str],
    layout: tuple[str, str, str, str, Callable[[Mask], Mask]],
) -> None:
    root = move(write_archive(sequences=4, frames=3), *layout)
    before = read_tree(root.parent)
    assert main([str(root)]) == 0
    assert read_tree(root.parent) == before
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80 + len(str(root))
    command = printed.partition("the training that fits:")[2].rpartition("check: ")[0]
    words = shlex.split(command.replace("\\\n", " "))
    words = words[words.index("interferogram-small") :]
    plan, _ = plan_training(parse(train.Args, [*words, "--workers", "0", "--out", str(root / "run")]), idle)
    assert plan.data.classes == ("background", "object")
    assert len(plan.data.split.train) + len(plan.data.split.validation) == 12
    for sample in plan.data.split.train:
        assert sample.label is not None
        stored = decode_image(sample.label.read_bytes())
        mask = sample.read_mask(ImageFiles(), (64, 96), plan.data.classes, plan.recipe.label_map)
        assert np.array_equal(mask, stored > 0)


def test_faults_that_stop_a_training_are_exit_code_2_and_no_command(
    write_archive: WriteArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write_archive(sequences=4, frames=3), tmp_path / "out"
    (root / "masks/s0/0.png").write_bytes(b"x")
    (root / "images/s1/1.png").write_bytes(b"x")
    assert main([str(root), "--out", str(out)]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "jobs/train.py" not in said
    assert said.endswith(
        f"check: check.json and check.png are in {out} check: 2 faults would stop a training"
    )
    assert sorted(path.name for path in out.iterdir()) == ["check.json", "check.png"]


def test_fields_are_said_as_options(write_archive: WriteArchive, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_archive()
    shutil.rmtree(root / "masks")
    assert main([str(root)]) == 2
    assert "--labels DIR" in " ".join(capsys.readouterr().out.split())
    assert main([str(root / "nowhere")]) == 2
    assert (
        capsys.readouterr().err
        == f"check: data {root}/nowhere is no folder; give the one that holds the images\n"
    )


def test_a_dry_run_of_a_training_looks_with_its_options(
    write_archive: WriteArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_archive(sequences=4, frames=3)
    words = [*TINY_WORDS, "--data", str(root), "--workers", "0", "--dry-run"]
    before = read_tree(tmp_path)
    assert train.main([*words, "--limit", "2"]) == 0
    said = capsys.readouterr().out
    assert "2 train, 2 validate" in said
    assert said.endswith("train: nothing stops a training\n")
    assert train.main([*words, "--crops.size-px", "96", "96"]) == 2
    assert "12 images of fewer pixels at working size than a crop of 96 x 96" in " ".join(
        capsys.readouterr().out.split()
    )
    assert train.main([*words, "--loss", "crossentropy"]) == 2
    assert read_tree(tmp_path) == before
