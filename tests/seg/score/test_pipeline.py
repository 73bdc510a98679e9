import concurrent.futures
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from seg.data.colours import ColourMask
from seg.data.images import Pixels, decode_image
from seg.data.pairing import pair_labels
from seg.data.preprocess import Statistics
from seg.files import persistently
from seg.ledger.outcome import LEDGER_SCHEMA, QUARANTINE_SCHEMA, Outcome, Scored
from seg.model_file import load_model
from seg.predict.predictor import Piece
from seg.predict.tiling import ImageCrops, Mixing
from seg.recipe import Preprocessing, Tiling
from seg.score import read as image_reader
from seg.score.blame import InFlight, read_notes
from seg.score.finish import write_mask
from seg.score.pipeline import DeviceLost, ImageScorer
from seg.score.predict import ImagePredictor
from seg.score.queue import Order
from seg.score.read import ImageReader, ScorerSettings, sequence_file
from seg.score.work import Work
from seg.storage import as_place
from tests.small import count_by_hand, read_tree, write_image, write_model, write_odd_archive

TILING = Tiling(crop_px=(64, 64), halo_px=16)


@pytest.fixture
def settings(tmp_path: Path) -> ScorerSettings:
    (tmp_path / "out").mkdir()
    return ScorerSettings(
        archive=as_place(tmp_path / "archive" / "images"),
        labels=as_place(tmp_path / "archive" / "masks"),
        out=as_place(tmp_path / "out"),
        models=(write_model(tmp_path / "model.safetensors"),),
        tiling=TILING,
        batch=3,
        precision="float32",
        threads=1,
    )


def score(settings: ScorerSettings, images: list[str]) -> dict[str, dict[str, Any]]:
    labels = pair_labels(images, settings.labels) if settings.labels else {}
    return score_rows(settings, [request(image, labels.get(image)) for image in images])


def request(image: str, label: str | None = None, window: Sequence[str] = ()) -> Order:
    return Order(image, label=label, sequence="s", earlier=tuple(window))


def score_rows(settings: ScorerSettings, orders: list[Order]) -> dict[str, dict[str, Any]]:
    """Outcomes as the ledger and the quarantine keep them, a row an image, in order."""
    with closing(ImageScorer(settings, "cpu")) as scorer:
        outcomes = list(scorer.score(orders))
    assert [outcome.image for outcome in outcomes] == [order.image for order in orders]
    blank = dict.fromkeys([*LEDGER_SCHEMA.names, *QUARANTINE_SCHEMA.names])
    return {outcome.image: blank | asdict(outcome) for outcome in outcomes}


def masks_of(settings: ScorerSettings) -> Path:
    return settings.out.local("masks")


def test_every_kind_of_image_is_counted_as_by_hand(settings: ScorerSettings) -> None:
    labels = write_odd_archive(settings.archive.local().parent)
    rows = score(settings, list(labels))
    assert {row["reason"] for row in rows.values()} == {None}
    for image, row in rows.items():
        mask = cv2.imread(str(masks_of(settings) / f"{image}.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        assert mask.shape == (row["height"], row["width"])
        assert row["class_pixels"] == tuple(int((mask == k).sum()) for k in range(2))
        assert 0.5 <= row["confidence"] <= 1
        assert row["labelled"] == (labels[image] is not None)
        if labels[image] is None:
            assert row["confusion"] is row["ignored"] is row["label_path"] is row["label_sha256"] is None
            continue
        confusion = np.reshape(row["confusion"], (2, 2))
        assert confusion.tolist() == count_by_hand(masks_of(settings), {image: labels[image]})
        assert confusion.sum() + row["ignored"] == mask.size
    assert sum(row["class_pixels"][0] for row in rows.values()) > 0
    assert sum(row["class_pixels"][1] for row in rows.values()) > 0  # or the count would prove little


def test_bilevel_masks_and_named_boxes_count_as_the_truth_they_are(settings: ScorerSettings) -> None:
    """A mask of one bit, and boxes whose classes stand beside them: the rows of the matrix, by hand."""
    classes = ("background", "cell", "dust")
    model = write_model(settings.models[0].with_name("three.safetensors"), classes=classes)
    root = settings.archive.local().parent
    image = np.random.default_rng(2).integers(0, 256, (64, 70), dtype=np.uint8)
    for name in ("bits.png", "named.png", "plain.png", "odd.png"):
        write_image(root / "images" / name, image)
    truth = np.zeros(image.shape, bool)
    truth[5:25, 7:40] = True
    (root / "masks").mkdir()
    Image.fromarray(truth).save(root / "masks/bits.png")
    boxes = [[1, 2, 30, 20], [40, 30, 20, 30]]
    for name, names in (("named", ["dust", "cell"]), ("plain", None), ("odd", ["dust", "hunter2"])):
        content = {"boxes": boxes} | ({"classes": names} if names else {})
        (root / "masks" / f"{name}.json").write_text(json.dumps(content))
    rows = score(replace(settings, models=(model,)), ["bits.png", "named.png", "plain.png", "odd.png"])
    counts = {
        name: np.reshape(row["confusion"], (3, 3)).sum(1).tolist()
        for name, row in rows.items()
        if row["confusion"]
    }
    whole = image.size
    assert counts == {
        "bits.png": [whole - 660, 660, 0],
        "named.png": [whole - 1200, 600, 600],
        "plain.png": [whole - 1200, 1200, 0],
    }
    assert {name: row["ignored"] for name, row in rows.items()} == dict.fromkeys(counts, 0) | {
        "odd.png": None
    }
    assert rows["odd.png"]["reason"] == "label_mismatch"
    assert rows["odd.png"]["detail"] == (
        f'label {root}/masks/odd.json, box 2: its entry in "classes" is none of the classes that boxes have '
        "here: cell, dust"
    )


def test_a_row_says_what_was_read(settings: ScorerSettings) -> None:
    write_odd_archive(settings.archive.local().parent)
    rows = score(settings, ["deep/colour.tif", "pages.tif#2", "dot.png"])
    for image, row in rows.items():
        file = settings.archive.local(image.removesuffix("#2"))
        assert row["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (row["bytes"], row["mtime_ns"]) == (file.stat().st_size, file.stat().st_mtime_ns)
        assert settings.labels is not None
        assert row["label_path"] == f"{image}.png"
        label = settings.labels.local(row["label_path"])
        assert row["label_sha256"] == hashlib.sha256(label.read_bytes()).hexdigest()
        assert (row["label_bytes"], row["label_mtime_ns"]) == (
            label.stat().st_size,
            label.stat().st_mtime_ns,
        )
        mask = (masks_of(settings) / f"{image}.png").read_bytes()
        assert row["mask_bytes"] == len(mask)
        assert row["mask_sha256"] == hashlib.sha256(mask).hexdigest()
        assert row["attempt"] == 1
        assert row["finished_at"] is not None
        assert all(row[f"seconds_{stage}"] >= 0 for stage in ("read", "decode", "model", "write"))
    kinds = [
        tuple(row[name] for name in ("height", "width", "channels", "bit_depth")) for row in rows.values()
    ]
    assert kinds == [(97, 130, 3, 16), (70, 130, 1, 8), (1, 1, 1, 8)]


def test_an_image_is_scored_alike_alone_and_among_others(settings: ScorerSettings) -> None:
    images = list(write_odd_archive(settings.archive.local().parent))
    together = score(settings, images)
    for image in images[:4]:
        (alone,) = score(settings, [image]).values()
        assert alone["confusion"] == together[image]["confusion"]
        assert alone["confidence"] == together[image]["confidence"]


def test_without_masks_nothing_is_written(settings: ScorerSettings, tmp_path: Path) -> None:
    images = list(write_odd_archive(settings.archive.local().parent))
    before = read_tree(tmp_path)
    rows = score(replace(settings, masks=False), images)
    assert read_tree(tmp_path) == before
    assert {row["reason"] for row in rows.values()} == {None}
    assert {(row["mask_bytes"], row["mask_sha256"]) for row in rows.values()} == {(None, None)}


BAD_LABELS = {
    "another size": np.zeros((64, 63), np.uint8),
    "an unknown id": np.full((64, 64), 7, np.uint8),
    "colour": np.zeros((64, 64, 3), np.uint8),
}


@pytest.mark.parametrize("kind", BAD_LABELS)
def test_a_label_that_does_not_fit_sets_its_image_aside_and_names_the_file(
    settings: ScorerSettings, kind: str
) -> None:
    assert settings.labels is not None
    for name in ("good.png", "bad.png"):
        write_image(settings.archive.local(name), np.zeros((64, 64), np.uint8))
        write_image(
            settings.labels.local(name),
            BAD_LABELS[kind] if name == "bad.png" else np.ones((64, 64), np.uint8),
        )
    rows = score(settings, ["good.png", "bad.png"])
    assert rows["good.png"]["reason"] is None
    assert rows["bad.png"]["reason"] == "label_mismatch"
    assert f"{settings.labels}/bad.png" in rows["bad.png"]["detail"]
    assert rows["bad.png"]["confusion"] is None
    assert not (masks_of(settings) / "bad.png.png").exists()


def test_files_that_cannot_be_read_are_set_aside_with_their_reason(settings: ScorerSettings) -> None:
    assert settings.labels is not None
    for name in ("gone.png", "unlabelled.png"):
        write_image(settings.archive.local(name), np.zeros((64, 64), np.uint8))
        write_image(settings.labels.local(name), np.zeros((64, 64), np.uint8))
    settings.archive.local("gone.png").unlink()  # after it was listed
    settings.labels.local("unlabelled.png").unlink()
    rows = score_rows(settings, [request(name, name) for name in ("gone.png", "unlabelled.png")])
    found = {image: (row["reason"], row["detail"]) for image, row in rows.items()}
    assert found == {
        "gone.png": (
            "unreadable",
            f"{settings.archive}/gone.png cannot be read: No such file or directory",
        ),
        "unlabelled.png": (
            "label_mismatch",
            f"label {settings.labels}/unlabelled.png cannot be read: No such file or directory",
        ),
    }


def test_an_image_of_another_depth_than_the_model_was_fitted_on_is_unsupported(
    settings: ScorerSettings, tmp_path: Path
) -> None:
    write_image(settings.archive.local("deep.png"), np.zeros((64, 64), np.uint16))
    fitted = write_model(
        tmp_path / "fitted.safetensors",
        preprocessing=Preprocessing(normalisation="fitted"),
        statistics=Statistics((80.0,), (20.0,), 8),
    )
    (row,) = score(replace(settings, models=(fitted,), labels=None), ["deep.png"]).values()
    assert (row["reason"], row["detail"]) == (
        "unsupported",
        "the image has 16 bits, the model was fitted on 8",
    )


def test_a_models_label_map_is_applied_to_the_truth(settings: ScorerSettings, tmp_path: Path) -> None:
    assert settings.labels is not None
    write_image(settings.archive.local("a.png"), np.zeros((64, 64), np.uint8))
    truth = np.zeros((64, 64), np.uint8)
    truth[:10], truth[10:15] = 200, 99
    write_image(settings.labels.local("a.png"), truth)
    model = write_model(tmp_path / "mapped.safetensors", label_map=((200, 1), (99, 255)))
    (row,) = score(replace(settings, models=(model,)), ["a.png"]).values()
    assert np.reshape(row["confusion"], (2, 2)).sum(1).tolist() == [49 * 64, 10 * 64]
    assert row["ignored"] == 5 * 64


def test_a_mask_is_one_channel_of_ids(tmp_path: Path) -> None:
    ids = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_mask(as_place(tmp_path), "new/a.tif#0.png", ids)
    read = cv2.imread(str(tmp_path / "new" / "a.tif#0.png"), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert np.array_equal(read, ids)
    assert len(list((tmp_path / "new").iterdir())) == 1


def score_windows(settings: ScorerSettings, windows: dict[str, list[str]]) -> dict[str, tuple[bytes, float]]:
    """Mask and confidence by image, each scored with the earlier frames it is given."""
    rows = score_rows(settings, [request(image, window=window) for image, window in windows.items()])
    assert {row["reason"] for row in rows.values()} == {None}
    folder = masks_of(settings)
    return {image: ((folder / f"{image}.png").read_bytes(), row["confidence"]) for image, row in rows.items()}


def test_a_sequence_model_sees_the_window_and_the_next_frame_for_one_that_is_missing(
    tmp_path: Path, settings: ScorerSettings
) -> None:
    model = write_model(tmp_path / "gru.safetensors", architecture="icnet-gru", frames=3)
    settings = replace(settings, models=(model,), tiling=Tiling(crop_px=(64, 64), halo_px=0))
    random = np.random.default_rng(1)
    for name in ("0.png", "1.png", "2.png"):
        write_image(settings.archive.local(name), random.integers(0, 255, (64, 64), dtype=np.uint8))
    write_image(settings.archive.local("wide.png"), np.zeros((64, 96), np.uint8))
    settings.archive.local("bad.png").write_bytes(b"")
    whole = score_windows(settings, {"2.png": ["0.png", "1.png"]})["2.png"]
    others = {
        "as the window says": (["1.png", "0.png"], False),
        "unreadable: the next one": (["bad.png", "1.png"], ["1.png", "1.png"]),
        "of another size: the next one": (["0.png", "wide.png"], ["0.png", "2.png"]),
        "gone: the next one": (["gone.png", "bad.png"], ["2.png", "2.png"]),
    }
    for kind, (window, same_as) in others.items():
        found = score_windows(settings, {"2.png": window})["2.png"]
        assert found != whole, kind
        if same_as:
            assert found == score_windows(settings, {"2.png": same_as})["2.png"], kind


def test_neighbours_that_were_read_before_change_nothing(tmp_path: Path, settings: ScorerSettings) -> None:
    model = write_model(tmp_path / "gru.safetensors", architecture="icnet-gru", frames=3)
    settings = replace(settings, models=(model,), tiling=Tiling(crop_px=(64, 64), halo_px=0))
    random = np.random.default_rng(1)
    names = [f"{k}.png" for k in range(12)]
    for name in names:
        write_image(settings.archive.local(name), random.integers(0, 255, (64, 64), dtype=np.uint8))
    windows = {name: [names[max(0, k - 2)], names[max(0, k - 1)]] for k, name in enumerate(names)}
    together = score_windows(settings, windows)
    alone = {image: score_windows(settings, {image: window})[image] for image, window in windows.items()}
    assert together == alone


def test_intensity_is_that_of_the_stored_values(settings: ScorerSettings) -> None:
    random = np.random.default_rng(2)
    images = {
        "a.png": random.integers(0, 255, (31, 47), dtype=np.uint8),
        "b.png": random.integers(0, 65535, (31, 47), dtype=np.uint16),
        "c.png": random.integers(0, 255, (31, 47, 3), dtype=np.uint8),
    }
    for name, pixels in images.items():
        write_image(settings.archive.local(name), pixels)
    rows = score(replace(settings, labels=None), list(images))
    for name, pixels in images.items():
        assert rows[name]["intensity_mean"] == pytest.approx(pixels.mean(dtype=np.float64), rel=1e-14)
        assert rows[name]["intensity_std"] == pytest.approx(pixels.std(dtype=np.float64), rel=1e-9)


def test_objects_are_those_of_the_mask_and_counted_against_the_labels(settings: ScorerSettings) -> None:
    labels = write_odd_archive(settings.archive.local().parent)
    settings = replace(settings, min_object_px=4)
    orders = [request(image, f"{image}.png" if label else None) for image, label in labels.items()]
    with closing(ImageScorer(settings, "cpu")) as scorer:
        outcomes = list(scorer.score(orders))
    for scored in outcomes:
        assert isinstance(scored, Scored)
        mask = cv2.imread(str(masks_of(settings) / f"{scored.image}.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None
        count, _, stats, _ = cv2.connectedComponentsWithStats((mask == 1).astype(np.uint8), connectivity=8)
        areas = sorted(int(area) for area in stats[1:count, cv2.CC_STAT_AREA] if area >= 4)
        assert sorted(found.area for found in scored.objects) == areas
        if scored.labelled:
            judged = [found for found in scored.objects if found.iou is not None]  # not all is ignored
            assert sum(scored.objects_found or ()) + sum(scored.objects_invented or ()) == len(judged)
        else:
            assert scored.objects_found is scored.objects_missed is scored.objects_invented is None


def test_an_image_without_a_label_is_set_aside_where_one_is_required(settings: ScorerSettings) -> None:
    write_image(settings.archive.local("a.png"), np.zeros((64, 64), np.uint8))
    (row,) = score_rows(replace(settings, require_labels=True), [request("a.png")]).values()
    assert row["reason"] == "label_missing"


def test_what_is_no_file_does_not_keep_anyone_waiting(settings: ScorerSettings) -> None:
    settings.archive.local().mkdir(parents=True)
    os.mkfifo(settings.archive.local("pipe.png"))
    (row,) = score(replace(settings, labels=None), ["pipe.png"]).values()
    assert (row["reason"], row["detail"]) == (
        "unreadable",
        f"{settings.archive}/pipe.png cannot be read: it is no file",
    )


def test_a_storage_that_is_away_is_no_images_fault(
    settings: ScorerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persistently, "__kwdefaults__", {"patience_s": 0.0})
    settings.archive.local().mkdir(parents=True)
    reader = ImageReader(settings, load_model(settings.models[0])[1])
    aside = reader.prepare(request("a.png")).aside
    assert aside is not None
    assert aside.reason == "unreadable"
    settings.archive.local().rmdir()
    with pytest.raises(FileNotFoundError, match="archive/images"):
        reader.prepare(request("a.png"))


def test_however_much_is_asked_for_at_once_is_answered_in_order(settings: ScorerSettings) -> None:
    for k in range(40):
        write_image(settings.archive.local(f"{k}.png"), np.full((64, 64), k, np.uint8))
    notes = InFlight(settings.out.below("inflight"), "w1")
    with closing(ImageScorer(settings, "cpu")) as scorer:
        outcomes = [scorer.submit(request(f"{k}.png"), notes) for k in range(40)]
        assert [outcome.result().image for outcome in outcomes] == [f"{k}.png" for k in range(40)]
    assert notes.notes() == {}
    assert read_notes(settings.out.below("inflight"), "w1") == {}


def test_images_share_passes_and_one_that_is_alone_is_not_kept_waiting(settings: ScorerSettings) -> None:
    for k in range(7):
        write_image(settings.archive.local(f"{k}.png"), np.full((64, 64), k, np.uint8))
    settings, sizes = replace(settings, labels=None), []
    with closing(ImageScorer(settings, "cpu")) as scorer:
        model = scorer.predictor.predictor.passes.model
        model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
        held = threading.Event()
        prepare = scorer.reader.prepare
        scorer.reader.prepare = lambda *words: (held.wait(), prepare(*words))[1]  # type: ignore[method-assign]
        outcomes = [scorer.submit(request(f"{k}.png")) for k in range(6)]
        held.set()
        for outcome in outcomes:
            outcome.result()
        assert set(sizes) == {3}  # exactly, however many of them were there
        assert 2 <= len(sizes) <= 6
        sizes.clear()
        scorer.submit(request("6.png")).result()
        assert sizes == [3]


@pytest.mark.parametrize(("mixing", "taken_s"), [("mixed", 2), ("image", 6)])
def test_an_image_that_is_alone_is_not_charged_with_what_fills_its_pass(
    settings: ScorerSettings, mixing: Mixing, taken_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("seg.score.predict.time", SimpleNamespace(perf_counter=lambda: now[0]))
    write_image(settings.archive.local("0.png"), np.zeros((64, 64), np.uint8))
    with closing(ImageScorer(replace(settings, labels=None, mixing=mixing), "cpu")) as scorer:
        model = scorer.predictor.predictor.passes.model
        model.register_forward_pre_hook(lambda *_: now.__setitem__(0, now[0] + 6))
        outcome = scorer.submit(request("0.png")).result()
    assert isinstance(outcome, Scored)
    assert outcome.seconds["model"] == taken_s


class Raising(ImagePredictor):
    """Raises at one image, once the model has it."""

    raises = "2.png"

    def _predict(self, work: Work, image: ImageCrops, pieces: Iterator[Piece]) -> None:
        if work.order.image == self.raises:
            raise RuntimeError("no kernel for this")
        super()._predict(work, image, pieces)


class Lost(Raising):
    """On a device that then computes no more."""

    def is_sound(self) -> bool:
        return False


@pytest.mark.parametrize("kind", [Raising, Lost])
def test_what_the_model_raises_is_of_the_images_at_hand_and_the_others_go_on(
    settings: ScorerSettings, kind: type[ImagePredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageScorer, "open_predictor", staticmethod(kind))
    for k in range(9):
        write_image(settings.archive.local(f"{k}.png"), np.full((64, 64), k, np.uint8))
    notes = InFlight(None, "")
    with closing(ImageScorer(replace(settings, labels=None, batch=1), "cpu")) as scorer:
        outcomes = {f"{k}.png": scorer.submit(request(f"{k}.png"), notes) for k in range(9)}
        errors = {image: outcome.exception() for image, outcome in outcomes.items() if outcome.exception()}
    assert errors.keys() == notes.notes().keys() == {"2.png"}
    assert notes.notes()["2.png"].stage == "model"
    if kind is Lost:
        assert isinstance(errors["2.png"], DeviceLost)
        assert "cpu computes no more: RuntimeError: no kernel for this" in str(errors["2.png"])
    else:
        assert isinstance(errors["2.png"], RuntimeError)


def test_images_that_many_threads_ask_for_at_the_same_time_are_all_scored(settings: ScorerSettings) -> None:
    """As Ray's threads do: readers and model have to agree on who is next, or one waits for the other."""
    threads = 32
    write_image(settings.archive.local("a.png"), np.zeros((32, 32), np.uint8))
    together = threading.Barrier(threads)

    def ask(_: int) -> Future[Outcome]:
        together.wait()
        return scorer.submit(request("a.png"))

    with closing(ImageScorer(settings, "cpu")) as scorer, ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            outcomes = list(pool.map(ask, range(threads)))
            _, waiting = concurrent.futures.wait(outcomes, timeout=60)
            assert not waiting


def test_a_long_background_makes_no_image_overdue_as_each_frame_counts_afresh(
    settings: ScorerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "b.safetensors", preprocessing=Preprocessing(background_every=1))
    names = [f"{k}.png" for k in range(20)]
    for name in names:
        write_image(settings.archive.local(name), np.zeros((64, 64), np.uint8))
    settings.backgrounds.write_json(sequence_file("s"), {"sequence": "s", "frames": names})
    now, ages, notes = [0.0], [], InFlight(None, "")
    reader = ImageReader(replace(settings, labels=None), load_model(model)[1])

    def decode(data: bytes, page: int | None = None) -> Pixels:
        now[0] += 100
        ages.append(notes.notes()["0.png"].seconds)
        return decode_image(data, page)

    monkeypatch.setattr("seg.score.blame.time.monotonic", lambda: now[0])
    monkeypatch.setattr("seg.data.images.decode_image", decode)
    assert reader.prepare(request("0.png"), notes).background_frames == 20
    assert ages == [100.0] * 21  # the image itself, then the frames of its background


class CountingDecoder:
    """Decodes as before, and knows how many do so at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.most = 0

    def __call__(self, data: bytes, page: int | None = None) -> Pixels:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return decode_image(data, page)
        finally:
            with self.lock:
                self.now -= 1


def test_images_that_do_not_fit_in_memory_together_are_decoded_one_at_a_time_and_scored_alike(
    settings: ScorerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    names = [f"{k}.png" for k in range(7)]
    for k, name in enumerate(names):
        side = 48 + 16 * (k % 3)
        write_image(settings.archive.local(name), random.integers(0, 255, (side, side), dtype=np.uint8))
    settings.archive.local("3.png").write_bytes(b"no image")  # and whoever is set aside keeps nobody waiting
    settings = replace(settings, labels=None)
    expected = {name: row.get("class_pixels") for name, row in score(settings, names).items()}
    decoder = CountingDecoder()
    monkeypatch.setattr("seg.data.images.decode_image", decoder)
    with closing(ImageScorer(settings, "cpu")) as scorer:
        scorer.reader.memory.total = 1
        outcomes = list(scorer.score(map(request, names)))
    assert [outcome.image for outcome in outcomes] == names
    assert {one.image: getattr(one, "class_pixels", None) for one in outcomes} == expected
    assert decoder.most == 1


def test_a_large_file_is_read_when_its_turn_has_come(
    settings: ScorerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reader, "LARGE_FILE_BYTES", 100)
    for k in range(4):
        write_image(settings.archive.local(f"{k}.png"), np.full((64, 64), k, np.uint8))
    reader = ImageReader(replace(settings, labels=None), load_model(settings.models[0])[1])
    first, second = reader.memory.queue(), reader.memory.queue()
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(reader.prepare, request("1.png"), None, second)
        assert reader.prepare(request("0.png"), None, first).aside is None
        assert late.result(timeout=60).aside is None
    assert reader.prepare(request("2.png")).aside is None  # without a turn: one of its own


def test_labels_in_colours_are_counted_as_those_of_ids(settings: ScorerSettings) -> None:
    root = settings.archive.above.local()
    random, mask = np.random.default_rng(3), root / "masks/a.png"
    ids = random.integers(0, 3, (70, 90))
    write_image(root / "images/a.png", random.integers(0, 256, (70, 90), dtype=np.uint8))
    write_image(mask, np.choose(ids, (0, 1, 255)).astype(np.uint8))
    by_ids = score(settings, ["a.png"])["a.png"]
    table = ColourMask(((255, 0, 0), (0, 0, 255), (9, 9, 9)))  # the last is of no class, so ignored
    Image.fromarray(np.array(table.colours, np.uint8)[ids]).save(mask)
    by_colours = score(replace(settings, colours=table), ["a.png"])["a.png"]
    assert np.sum(by_ids["confusion"]) == np.count_nonzero(ids < 2)
    for name in ("confusion", "ignored", "objects_found", "objects_missed", "objects_invented"):
        assert by_colours[name] == by_ids[name]
