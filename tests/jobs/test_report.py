import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import report, status
from jobs.run import run_job
from seg.report.report import write_review
from seg.score.exports import ExportKind, export_objects
from seg.score.progress import ScoringProgress
from seg.score.status import StatusWriter
from seg.storage import as_place
from tests.cluster.scores import random_rows, write_scores
from tests.outcomes import make_aside, make_object
from tests.small import read_tree


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)  # a job takes it over


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    for seed, name in enumerate(("A", "B")):
        write_scores(tmp_path / name, random_rows(20, seed=seed))
    return tmp_path


def run(*words: object) -> int:
    return report.main([str(word) for word in words])


def test_one_folder_gets_its_report_and_review_again(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scores / "A") == 0
    assert (
        capsys.readouterr().out
        == f"report: {scores}/A/report.html\nwhat to label next: {scores}/A/review.csv\n"
    )
    assert (scores / "A/report.html").read_text().lstrip().startswith("<!doctype html>")
    assert (scores / "A/review.csv").read_text().startswith("rank,image,reason,")


def test_a_report_is_put_elsewhere_where_asked(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scores / "A") == 0
    before = read_tree(scores / "A")
    assert run(scores / "A", "--out", scores / "pages/a.html") == 0
    said = f"report: {scores}/pages/a.html\nwhat to label next: {scores}/pages/a-review.csv\n"
    assert capsys.readouterr().out.endswith(said)
    assert (scores / "pages/a.html").read_bytes() == before["report.html"]
    assert (scores / "pages/a-review.csv").read_bytes() == before["review.csv"]
    assert read_tree(scores / "A") == before
    assert run(scores / "A", "--out", scores) == 2
    assert f"{scores} cannot be written (Is a directory)" in capsys.readouterr().err


def test_two_folders_are_compared_on_the_screen_and_on_a_page(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scores / "A", scores / "B") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["class", "background", "disc", "dust", "mIoU"]
    total = [float(word) for word in lines[4].split()[1:] if word != "to"]
    a, b, change, low, high = total
    assert change == pytest.approx(b - a, abs=2e-4)
    assert low <= change <= high
    assert lines[5] == "20 images compared; 0 without a label, 0 in A alone, 0 in B alone"
    assert lines[6] == f"report: {scores}/A/comparison-B.html"
    assert f">{change:+.4f}</dd>" in (scores / "A/comparison-B.html").read_text()
    assert run(scores / "A", scores / "B", "--out", scores / "pages/ab.html") == 0
    assert (scores / "pages/ab.html").is_file()


def test_a_wrong_request_is_2_and_one_sentence(scores: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "report: give one scores folder, or two to compare and, if you like, --out for the page\n"
    for words in ((), ("A", "B", "C")):
        assert run(*(scores / word if len(word) == 1 else word for word in words)) == 2
        assert capsys.readouterr().err == wrong
    assert run(scores / "nothing") == 2
    said = f"{scores}/nothing is no scores folder, as it holds no run.json; give the --out of a scoring"
    assert capsys.readouterr().err == f"report: {said}\n"
    shutil.rmtree(scores / "B")
    write_scores(scores / "B", [row | {"label_sha256": "new"} for row in random_rows(1, seed=0)])
    assert run(scores / "A", scores / "B") == 2
    assert "the label of s0/0.png differs between" in capsys.readouterr().err
    assert not (scores / "A/comparison-B.html").exists()


def test_figures_are_of_one_folder_and_nothing_is_written_where_they_are_refused(
    scores: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_tree(scores)
    assert run(scores / "A", scores / "B", "--figures", 2) == 2
    said = "report: --figures and --images show one scores folder; give one, or neither of them\n"
    assert capsys.readouterr().err == said
    assert run(scores / "A", "--figures", 2) == 2
    assert "was scored without masks" in capsys.readouterr().err
    assert run(scores / "A", "--images", "s0/0.png", "--figures", "-1") == 2
    assert read_tree(scores) == before


def flip_a_bit(folder: Path) -> Path:
    """Of a part in a folder, in the middle; the part."""
    (part, *_) = sorted(folder.iterdir())
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 16
    part.write_bytes(content)
    return part


@pytest.mark.parametrize("kind", ["ledger", "objects", "quarantine"])
def test_of_a_damaged_folder_nothing_is_told_but_the_part(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, *rows = random_rows(20, seed=0)
    first["objects"] = (make_object(first["image"], 0),)
    for name in ("A", "B"):
        write_scores(tmp_path / name, [first, make_aside(second["image"]), *rows])
    StatusWriter(as_place(tmp_path / "A")).write(ScoringProgress(20, ("background",), workers=1, title="t"))
    part = flip_a_bit(tmp_path / "A" / kind)
    jobs = {
        "report": lambda: run(tmp_path / "A"),
        "comparison": lambda: run(tmp_path / "B", tmp_path / "A"),
        "status": lambda: status.main([str(tmp_path / "A")]),
        "coco": lambda: run_job("export", lambda: export(tmp_path / "A", "coco")),
        "yolo": lambda: run_job("export", lambda: export(tmp_path / "A", "yolo")),
        "what to label": lambda: run_job("review", lambda: bool(write_review(as_place(tmp_path / "A")))),
    }
    for name, job in jobs.items():
        assert job() == 1, name
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"{part} is damaged (its sha256 is another than its name says); the command that" in said, name
    assert {path.name for path in (tmp_path / "A").iterdir()} <= {
        *("ledger", "objects", "quarantine"),
        *("run.json", "summary.json", "status.json"),
    }


def export(folder: Path, kind: ExportKind) -> int:
    export_objects(as_place(folder), kind)
    return 0
