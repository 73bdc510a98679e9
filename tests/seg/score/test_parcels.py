"""What each stage does with a parcel: together they give what one process gives, also of shares of images."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.score_stages import (
    answers_table,
    parcels_table,
    read_answers,
    read_parcels,
    read_works,
    works_table,
)
from seg.ledger.outcome import Outcome, Quarantined, Scored
from seg.model_card import ModelCard
from seg.model_file import read_model
from seg.predict.predictor import Piece
from seg.predict.tiling import ImageCrops
from seg.recipe import Preprocessing, Tiling
from seg.score.blame import InFlight
from seg.score.deadline import StopFlag
from seg.score.parcels import (
    Answered,
    Mark,
    Parcel,
    ParcelFinisher,
    ParcelPredictor,
    ParcelReader,
    ParcelScorer,
    Round,
    fill_parcels,
    images_in_parcel,
    read_marks,
)
from seg.score.pipeline import ImageScorer
from seg.score.predict import ImagePredictor
from seg.score.queue import Died, Order, Unbegun
from seg.score.read import ScorerSettings
from seg.score.work import Work
from seg.storage import as_place
from tests.small import read_tree, write_image, write_model, write_odd_archive

CLOCKS = dict.fromkeys(("seconds_read", "seconds_decode", "seconds_model", "seconds_write", "finished_at"))


@pytest.mark.parametrize(
    ("pixels", "device", "images"),
    [
        (3072 * 3072, "cpu", 1),
        (3072 * 3072, "cuda", 11),
        (2 * 3072 * 3072, "cuda", 5),
        (480 * 360, "cpu", 57),
        (64 * 64, "cpu", 64),
        (12_000 * 12_000, "cuda", 1),
        (0, "cuda", 64),
    ],
)
def test_a_parcel_is_a_second_of_work_and_no_more_than_256_mib(pixels: int, device: str, images: int) -> None:
    assert images_in_parcel(pixels, device) == images
    assert images == 1 or images * pixels * 2.5 <= 2**28


def test_parcels_hold_whole_groups_in_order() -> None:
    groups = [["a"], ["b", "c", "d"], ["e"], ["f", "g"], ["h"]]
    assert list(fill_parcels(groups, 3)) == [["a"], ["b", "c", "d"], ["e", "f", "g"], ["h"]]
    assert list(fill_parcels(groups, 1)) == [["a"], ["b", "c", "d"], ["e"], ["f", "g"], ["h"]]
    assert list(fill_parcels([], 3)) == []


@pytest.fixture
def labels(tmp_path: Path) -> dict[str, Path | None]:
    """An archive of odd images, one of several windows, one that is none."""
    labels = write_odd_archive(tmp_path)
    random = np.random.default_rng(2)
    large = random.integers(0, 255, (5, 7), dtype=np.uint8).repeat(40, 0).repeat(25, 1)
    write_image(tmp_path / "images" / "large.png", large)
    write_image(tmp_path / "masks" / "large.png", large // 128)
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    return labels | {"large.png": tmp_path / "masks" / "large.png", "bad.png": None}


def open_round(tmp_path: Path, out: str, *, shrink: float = 1.0, shares: int = 1) -> Round:
    model = write_model(tmp_path / "model.safetensors", preprocessing=Preprocessing(shrink=shrink))
    (tmp_path / out / "inflight").mkdir(parents=True, exist_ok=True)
    settings = ScorerSettings(
        archive=as_place(tmp_path / "images"),
        labels=as_place(tmp_path / "masks"),
        out=as_place(tmp_path / out),
        models=(model,),
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        batch=3,
        precision="float32",
        threads=1,
    )
    card: ModelCard = read_model(model)[1]
    return Round(name="r-1", settings=settings, card=card, device="cpu", image_limit_s=None, shares=shares)


def ask(tmp_path: Path, labels: dict[str, Path | None]) -> list[Order]:
    return [
        Order(image, label=label and label.relative_to(tmp_path / "masks").as_posix())
        for image, label in labels.items()
    ]


def run(round_: Round, parcels: list[Parcel]) -> Iterator[Answered]:
    """Three stages one after the other, with what goes between them as Ray Data carries it."""
    reader, predictor, finisher = (
        kind(round_, "node") for kind in (ParcelReader, ParcelPredictor, ParcelFinisher)
    )
    for parcel in read_parcels(parcels_table(parcels)):
        read = list(reader.read(parcel))
        for name, works in reversed(read):  # shares come back in any order
            ((_, arrived),) = read_works(works_table(name, works))
            assert not any(array.flags.writeable for work in arrived for array in work.arrays())
            ((_, predicted),) = read_works(works_table(name, predictor.predict(name, arrived)))
            yield from read_answers(answers_table(finisher.finish(name, predicted)))


def without_clocks(outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {
        one.image: replace(one, **CLOCKS) if isinstance(one, Scored) else one  # type: ignore[arg-type]
        for one in outcomes
    }


@pytest.mark.parametrize(("shrink", "shares"), [(1.0, 1), (3.0, 1), (1.0, 7), (3.0, 2), (1.0, 100)])
def test_three_stages_give_what_one_process_gives(
    tmp_path: Path, labels: dict[str, Path | None], shrink: float, shares: int
) -> None:
    orders = ask(tmp_path, labels)
    whole = open_round(tmp_path, "whole", shrink=shrink)
    with closing(ImageScorer(whole.settings, "cpu")) as scorer:
        expected = without_clocks(list(scorer.score(orders)))
    round_ = open_round(tmp_path, "out", shrink=shrink, shares=shares)
    parcels = [Parcel(str(first), tuple(orders[first : first + 4])) for first in range(0, len(orders), 4)]
    answers = list(run(round_, parcels))
    outcomes = [one.answer for one in answers if isinstance(one.answer, Scored | Quarantined)]
    assert len(outcomes) == len(answers) == len(orders)
    assert without_clocks(outcomes) == expected
    assert read_tree(tmp_path / "out/masks") == read_tree(tmp_path / "whole/masks")
    assert [one.reason for one in outcomes if isinstance(one, Quarantined)] == ["unreadable"]
    scored = {one.image: one for one in outcomes if isinstance(one, Scored)}
    assert scored["large.png"].class_pixels[1] > 500
    nodes = {tuple(sorted(one.nodes)) for one in answers if isinstance(one.answer, Scored)}
    assert nodes == {("model", "read", "write")}
    marks = read_marks(round_, round_.inflight.names(), {})
    assert {mark.stage for mark in marks.values()} == {"read", "model", "write"}
    assert all(mark.ready for mark in marks.values())


def test_the_mark_of_a_process_is_read_until_it_is_ready(tmp_path: Path) -> None:
    round_ = open_round(tmp_path, "out")
    inflight = round_.inflight
    for name, ready in (("a", True), ("b", False), ("gone", True)):
        inflight.write_json(f"r-1-{name}.process", ["read", "node", 7, ready])
    inflight.write("r-1-begun.process", b"")
    seen = read_marks(round_, inflight.names(), {})
    assert {name: mark.ready for name, mark in seen.items()} == {
        "r-1-a.process": True,
        "r-1-b.process": False,
        "r-1-gone.process": True,
    }
    inflight.remove("r-1-gone.process")
    inflight.write("r-1-a.process", b"no longer read")
    inflight.write_json("r-1-b.process", ["read", "node", 7, True])
    again = read_marks(round_, inflight.names(), seen)
    assert again == {name: Mark("read", "node", 7, True) for name in ("r-1-a.process", "r-1-b.process")}


@pytest.mark.parametrize("stage", ["read", "model", "write"])
def test_an_image_that_a_process_died_with_is_answered_and_not_touched(
    tmp_path: Path, labels: dict[str, Path | None], stage: str
) -> None:
    round_ = open_round(tmp_path, "out")
    parcel = Parcel("7", tuple(ask(tmp_path, labels)[:4]))
    victim = parcel.orders[1].image
    InFlight(round_.inflight, f"r-1-7-{stage}").begin(victim, 1, stage=stage)
    answers = {one.answer.image: one.answer for one in run(round_, [parcel])}
    died = answers.pop(victim)
    assert isinstance(died, Died)
    assert (died.note.stage, died.note.attempt, died.lives) == (stage, 1, False)
    assert all(isinstance(one, Scored) for one in answers.values())
    assert len(answers) == 3
    assert not (tmp_path / f"out/masks/{victim}.png").exists()
    left = [name for name in round_.inflight.names() if name.endswith(".json")]
    assert left == []


def test_one_process_with_all_stages_does_the_same(tmp_path: Path, labels: dict[str, Path | None]) -> None:
    round_ = open_round(tmp_path, "out")
    parcel = Parcel("7", tuple(ask(tmp_path, labels)[:5]))
    InFlight(round_.inflight, "r-1-7-model").begin(parcel.orders[2].image, 1)
    scorer = ParcelScorer(round_, "node")
    answers = [one.answer for one in scorer.score(parcel)]
    assert [one.image for one in answers] == [order.image for order in parcel.orders]
    assert [type(one).__name__ for one in answers] == ["Scored", "Scored", "Died", "Scored", "Scored"]
    StopFlag(round_.inflight, "r-1").raise_()
    scorer.stage.flag._looked_s = 0.0
    (answer,) = scorer.score(Parcel("8", parcel.orders[:1]))
    assert answer.answer == Unbegun(parcel.orders[0].image)


class Raising(ImagePredictor):
    """Raises at one image."""

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        if work.order.image == "large.png":
            raise RuntimeError("no kernel for this")
        super()._predict(work, image, pieces)


@pytest.mark.parametrize("shares", [1, 7])
def test_what_python_raises_is_told_of_its_image_and_the_others_go_on(
    tmp_path: Path, labels: dict[str, Path | None], shares: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seg.score.predict.ImagePredictor", Raising)
    round_ = open_round(tmp_path, "out", shares=shares)
    orders = ask(tmp_path, labels)[-4:]
    parcels = [Parcel(str(k), (order,)) for k, order in enumerate(orders)]
    answers = {one.answer.image: one.answer for one in run(round_, parcels)}
    assert answers.keys() == {order.image for order in orders}
    died = answers["large.png"]
    assert isinstance(died, Died)
    assert (died.lives, died.note.stage) == (True, "model")
    assert died.note.cause == "RuntimeError: no kernel for this"
    assert not any(isinstance(one, Died) for image, one in answers.items() if image != "large.png")


def test_parcels_that_come_at_once_are_predicted_one_after_the_other(
    tmp_path: Path, labels: dict[str, Path | None]
) -> None:
    orders = [order for order in ask(tmp_path, labels) if order.image != "bad.png"]
    round_ = open_round(tmp_path, "out")
    reader, predictor = ParcelReader(round_, "node"), ParcelPredictor(round_, "node")

    def read(times: int) -> list[tuple[str, list[Work]]]:
        parcels = [Parcel(str(number), tuple(orders)) for number in range(times)]
        return [found for parcel in parcels for found in reader.read(parcel)]

    ((_, alone),) = [(name, predictor.predict(name, works)) for name, works in read(1)]
    with ThreadPoolExecutor(4) as pool:
        for works in pool.map(lambda found: predictor.predict(*found), read(8)):
            for work, expected in zip(works, alone, strict=True):
                assert work.predicted is not None
                assert expected.predicted is not None
                assert work.predicted.counts == expected.predicted.counts
                np.testing.assert_array_equal(work.predicted.ids, expected.predicted.ids)
