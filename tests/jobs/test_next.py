import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs import next as next_steps
from jobs import train
from jobs.next import short_path, spell_command
from jobs.options import parse
from jobs.run import parse_words
from seg.recipes import RECIPES
from seg.requests import DataRequest, LabelRequest, PredictRequest, ScoreRequest
from seg.storage import as_place

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the user is in, with the jobs in jobs/, and Python on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["jobs/train.py"])
    monkeypatch.setattr("shutil.which", lambda name: sys.executable if name == "python" else None)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """What there is to look at, and the words of the command."""
    out, err = capsys.readouterr()
    assert not out
    first, *commands = err.splitlines()
    return first.removeprefix("next: "), shlex.split(commands[0]) if commands else []


def summary_of(folder: Path, data: Path) -> Any:
    return SimpleNamespace(folder=folder, data=data)


def trained_on(dataset: str = "plain", **options: Any) -> DataRequest:
    return DataRequest(recipe=replace(RECIPES["interferogram-small"], dataset=dataset), **options)


def test_a_training_names_its_pictures_and_how_to_score_with_its_model(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = here / "runs" / "a run"
    run.mkdir(parents=True)
    for name in ("best.safetensors", "curves.png", "examples.png"):
        (run / name).touch()
    next_steps.tell_after_training(summary_of(run, here / "my data"), trained_on())
    look, words = said(capsys)
    assert look == "see curves.png, examples.png in runs/a run; score images:"
    assert words[:2] == ["python", "jobs/score.py"]
    request = parse_words(ScoreRequest, words[2:])
    assert request.models == (Path("runs/a run/best.safetensors"),)
    assert (request.archive, request.out) == (as_place("my data"), as_place("scores/a run"))
    next_steps.tell_after_training(summary_of(run, here / "my data"), trained_on("camvid"))
    assert parse_words(ScoreRequest, said(capsys)[1][2:]).archive == as_place("ARCHIVE")
    words = {"label_suffix": "_mask", "label_colours": Path("table of colours"), "follow_links": True}
    told = trained_on(labels=here / "the truth", **words)
    next_steps.tell_after_training(summary_of(run, here / "my data"), told)
    request = parse_words(ScoreRequest, said(capsys)[1][2:])
    assert request.labels == as_place("the truth")
    assert {name: getattr(request, name) for name in words} == words
    assert request.models == (Path("runs/a run/best.safetensors"),)


def test_a_search_names_its_page_and_how_to_score_with_its_winner(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "search" / "x"
    folder.mkdir(parents=True)
    (folder / "best.safetensors").touch()
    next_steps.tell_after_search(summary_of(folder, here / "data"), trained_on())
    look, words = said(capsys)
    assert look == "open search/x/search.html in a browser; score images:"
    assert parse_words(ScoreRequest, words[2:]).models == (Path("search/x/best.safetensors"),)


def test_a_scoring_names_its_report_and_how_to_label_what_is_next(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["night one", "--model", "runs/it's/best.safetensors", "--out", "scores/x"]
    request = parse_words(ScoreRequest, words)
    next_steps.tell_after_scoring(request)
    look, words = said(capsys)
    assert look == "open scores/x/report.html in a browser; label what review.csv names:"
    label = parse_words(LabelRequest, words[2:])
    assert (label.folder, label.model) == (Path("night one"), Path("runs/it's/best.safetensors"))
    assert label.queue == Path("scores/x/review.csv")
    away = replace(request, archive=as_place("s3://bucket/night?region=eu-north-1"))
    next_steps.tell_after_scoring(away)
    assert said(capsys)[1] == []  # the window shows files of this machine


def test_predictions_are_looked_at_where_there_are_pictures(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = parse_words(PredictRequest, ["a.png", "--model", "m"])
    next_steps.tell_after_predicting(request, str(here / "predictions" / "x"))
    assert said(capsys) == ("see the pictures in predictions/x/overlays", [])
    next_steps.tell_after_predicting(replace(request, overlays="none"), "x")
    assert capsys.readouterr().err == ""


def test_labels_beside_their_images_can_be_trained_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "plain" / "images").mkdir(parents=True)
    (here / "bare").mkdir()
    next_steps.tell_after_labelling(parse_words(LabelRequest, ["plain"]))
    assert capsys.readouterr().err == ""
    (here / "plain" / "masks").mkdir()
    (here / "plain" / "masks" / "0.png").touch()
    next_steps.tell_after_labelling(parse_words(LabelRequest, ["plain"]))
    look, words = said(capsys)
    assert look == "train on these labels:"
    assert parse(train.Args, words[2:]).data == Path("plain")
    for request in (["bare"], ["plain", "--out", "elsewhere"]):
        next_steps.tell_after_labelling(parse_words(LabelRequest, request))
        assert capsys.readouterr().err == ""


@given(NAMES)
def test_a_command_that_is_pasted_is_the_command_whatever_a_name_holds(name: str) -> None:
    words = shlex.split(spell_command("train", "--data", Path(name)))
    assert words[-2] == "--data"
    assert Path(words[-1]) == Path(name)
    assert not words[-1].startswith("-")


@pytest.mark.parametrize(
    ("started", "on_path", "wanted"),
    [
        ("jobs/score.py", "python", ["python", "jobs/train.py"]),
        ("{here}/jobs/score.py", "python", ["python", "jobs/train.py"]),
        ("/opt/lab/jobs/score.py", "", ["{python}", "/opt/lab/jobs/train.py"]),
        ("fringe score", "fringe", ["fringe", "train"]),
        ("fringe score", "", ["{fringe}", "train"]),
    ],
)
def test_a_command_starts_as_the_one_that_runs_here_did(
    here: Path, monkeypatch: pytest.MonkeyPatch, started: str, on_path: str, wanted: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [started.format(here=here)])
    monkeypatch.setattr("shutil.which", lambda name: sys.executable if name == on_path else None)
    names = {"python": short_path(Path(sys.executable))}
    names["fringe"] = short_path(Path(sys.executable).with_name("fringe"))
    assert shlex.split(spell_command("train")) == [word.format(**names) for word in wanted]
