import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seg.ledger.outcome import Outcome, Quarantined
from seg.predict.predictor import Piece
from seg.predict.tiling import ImageCrops
from seg.recipe import Tiling
from seg.score import local
from seg.score.blame import Note, take_over
from seg.score.deadline import Stopping
from seg.score.limits import Limits
from seg.score.local import LocalSource
from seg.score.pipeline import DeviceLost, ImageScorer
from seg.score.predict import ImagePredictor
from seg.score.queue import Order, ScoreQueue, find_groups
from seg.score.read import ScorerSettings
from seg.score.work import Work
from seg.storage import Place, as_place
from tests.small import write_image, write_model

IMAGES = [f"{k}.png" for k in range(9)]
BAD = "4.png"


class Raising(ImagePredictor):
    """Raises at one image, each time."""

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        if work.order.image == BAD:
            raise RuntimeError("no kernel for this")
        super()._predict(work, image, pieces)


class Lost(Raising):
    """On a device that then computes no more."""

    def is_sound(self) -> bool:
        return False


class Slow(ImagePredictor):
    """Waits at one image until it was said that it takes too long."""

    goes_on: Callable[[], object] = bool

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        if work.order.image == BAD:
            Slow.goes_on()
        super()._predict(work, image, pieces)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    for name in IMAGES:
        write_image(tmp_path / "images" / name, np.zeros((64, 64), np.uint8))
    (tmp_path / "out" / "inflight").mkdir(parents=True)
    return as_place(tmp_path / "out")


@pytest.fixture
def open_source(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[type[ImagePredictor]], LocalSource]:
    settings = ScorerSettings(
        archive=as_place(tmp_path / "images"),
        labels=None,
        out=place,
        models=(write_model(tmp_path / "model.safetensors"),),
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        batch=1,
        precision="float32",
        threads=1,
    )

    def open_one(predictor: type[ImagePredictor], limits: Limits = Limits()) -> LocalSource:  # noqa: B008
        monkeypatch.setattr(ImageScorer, "open_predictor", staticmethod(predictor))
        return LocalSource(
            ScoreQueue(find_groups(IMAGES, lambda one, other: False)),
            lambda task: Order(task.image, task.attempt, task.alone),
            open_scorer=lambda: ImageScorer(settings, "cpu"),
            inflight=place.below("inflight"),
            stopping=Stopping(),
            limits=limits,
        )

    return open_one


def run(source: LocalSource) -> dict[str, Outcome]:
    return {outcome.image: outcome for arrived in source.outcomes() for outcome in arrived}


def test_an_exception_costs_its_image_alone(open_source: Callable[..., LocalSource], place: Place) -> None:
    source = open_source(Raising)
    rows = run(source)
    assert source.queue.is_complete
    assert rows.keys() == set(IMAGES)
    (aside,) = [one for one in rows.values() if isinstance(one, Quarantined)]
    assert (aside.image, aside.reason, aside.attempts) == (BAD, "killed_worker", 2)
    assert "RuntimeError: no kernel for this" in aside.detail
    assert place.below("inflight").names() == []


def test_a_device_that_is_lost_ends_the_run_with_the_cause_and_sets_nothing_aside(
    open_source: Callable[..., LocalSource], place: Place
) -> None:
    with pytest.raises(DeviceLost, match="cpu computes no more: RuntimeError: no kernel for this"):
        run(open_source(Lost))
    noted = take_over(place.below("inflight"))
    assert noted[BAD] == Note("model", 1)


def test_an_image_that_takes_too_long_is_named_once_and_waited_for(
    open_source: Callable[..., LocalSource],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local, "LOOK_EVERY_S", 0.01)
    source = open_source(Slow, Limits(image_s=0.0))
    looks = iter(range(20))

    def goes_on() -> None:
        while BAD not in source._named or next(looks, None) is not None:
            pass

    monkeypatch.setattr(Slow, "goes_on", staticmethod(goes_on))
    rows = run(source)
    assert rows.keys() == set(IMAGES)
    assert not [one for one in rows.values() if isinstance(one, Quarantined)]
    said = capfd.readouterr().err
    named = re.findall(rf"{BAD} takes longer than 0 s, in stage \w+, and `workers=0` cannot end it", said)
    assert len(named) == 1


def test_what_was_begun_is_suspect_however_it_ends(
    open_source: Callable[..., LocalSource], place: Place
) -> None:
    source = open_source(ImagePredictor)
    outcomes = source.outcomes()
    while not (arrived := next(outcomes)):
        pass
    outcomes.close()
    assert arrived
    assert {note.attempt for note in take_over(place.below("inflight")).values()} <= {1}
