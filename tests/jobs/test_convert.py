import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.convert import main
from seg.data.plain import open_plain
from seg.data.splits import split_samples
from tests.conftest import WriteArchive
from tests.seg.pack.test_training_data import write_foreign
from tests.small import read_tree, start_job


def test_a_part_of_a_data_set_is_written_then_nothing_is_left_to_do(
    write_archive: WriteArchive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_archive(sequences=4, frames=2), tmp_path / "out"
    words = f"dataset plain {source} {out} --split validation --seed 1 --share 0.5".split()
    how = split_samples(open_plain(source), 0.5, seed=1).how
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 4 images, 4 of them new ({how})\n"
    assert main(words) == 0
    assert capsys.readouterr().out == f"{out}: 4 images, 0 of them new ({how})\n"
    assert len(open_plain(out).samples) == 4


def test_a_test_share_draws_the_part_that_a_training_sets_aside(
    write_archive: WriteArchive, tmp_path: Path
) -> None:
    source, out = write_archive(sequences=4, frames=2), tmp_path / "out"
    words = f"dataset plain {source} {out} --split test --seed 1 --share 0.25 --test-share 0.5".split()
    drawn = split_samples(open_plain(source), 0.25, seed=1, test_share=0.5).test
    assert len(drawn) == 4
    assert main(words) == 0
    assert [sample.name for sample in open_plain(out).samples] == [sample.name for sample in drawn]


def test_a_label_map_is_given_in_pairs(write_archive: WriteArchive, tmp_path: Path) -> None:
    source, out = write_archive(), tmp_path / "out"
    words = f"dataset plain {source} {out} --split train --label-map 1 0 255 1".split()
    assert main(words) == 0
    (mask,) = out.glob("masks/*/1.png.png")
    with Image.open(mask) as ours, Image.open(source / "masks" / mask.parent.name / "1.png") as theirs:
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs) == 255)


def test_labels_of_an_old_file_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "roi.pkl").write_bytes(pickle.dumps({"a.bmp": ([(1, 2, 3, 4)], 17)}))
    assert main(["labels", str(tmp_path / "roi.pkl"), str(tmp_path / "boxes")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'boxes'}: 1 new labels\n"
    assert (tmp_path / "boxes/a.json").read_text() == '{"boxes": [[1, 2, 3, 4]]}\n'


def test_a_pickle_that_would_run_something_is_exit_code_2_and_nothing_written(tmp_path: Path) -> None:
    (tmp_path / "roi.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    before = read_tree(tmp_path)
    with start_job("convert", "labels", tmp_path / "roi.pkl", tmp_path / "out") as job:
        output, errors = job.communicate()
    assert (job.returncode, output) == (2, "")
    assert errors == (
        f"convert: {tmp_path / 'roi.pkl'} wants os.system, which is not among the few names that plain "
        "values need; nothing in it was run\n"
    )
    assert read_tree(tmp_path) == before


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("dataset", "plane", "SRC", "OUT", "--split", "train"),
            "unknown dataset 'plane'; did you",
        ),
        (("dataset", "plain", "SRC", "SRC/new", "--split", "train"), "is inside"),
        (("dataset", "plain", "SRC", "OUT", "--split", "test"), "has no test part"),
        (("dataset", "plain", "nowhere", "OUT", "--split", "test"), "nowhere is no folder"),
        (("labels", "nowhere.pkl", "OUT"), "nowhere.pkl is not there"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    write_archive: WriteArchive,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    text: str,
) -> None:
    source = write_archive()
    before = read_tree(tmp_path)
    places = {"SRC": str(source), "SRC/new": str(source / "new"), "OUT": str(tmp_path / "out")}
    assert main([places.get(word, word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("convert: ")
    assert text in line
    assert read_tree(tmp_path) == before


def test_labels_as_others_write_them_become_the_plain_layout(tmp_path: Path) -> None:
    images, labels = write_foreign(tmp_path / "theirs")
    words = f"dataset plain {images} {tmp_path / 'out'} --split train --share 0.5 --labels {labels}"
    assert main([*words.split(), "--label-suffix", "_mask", "--foreground", "255"]) == 0
    (sample,) = open_plain(tmp_path / "out").samples
    assert sample.label is not None
    with Image.open(sample.label) as ours, Image.open(labels / "0_mask.tif") as theirs:
        assert (sample.name, np.asarray(ours).tolist()) == ("0.png", (np.asarray(theirs) == 255).tolist())
