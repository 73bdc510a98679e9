import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import seg.score.exports
from seg.data.boxes import parse_yolo
from seg.data.labels import encode_mask
from seg.errors import DamagedFile, RequestError
from seg.ledger.ledger import Ledger
from seg.ledger.outcome import FoundObject
from seg.objects import find_objects, object_rows
from seg.score.exports import Exported, ExportKind, export_objects, write_object_table
from seg.storage import Place, as_place
from tests.outcomes import make_scored
from tests.s3 import BUCKET, serve_s3
from tests.seg.test_objects import describe

CLASSES = ["background", "cell", "grüner Staub"]
IMAGES = ("s/a.png", "b.tif#0", "b.tif#10", "empty.png")


def draw_ids(image: str) -> np.ndarray:
    """A mask of many small objects; of empty.png none."""
    random = np.random.default_rng(len(image))
    ids = (random.random((41, 67)) < 0.3) * random.integers(1, 3, (41, 67))
    return (ids * (image != "empty.png")).astype(np.uint8)


def write_scores(place: Place, images: tuple[str, ...] = IMAGES, *, part: int = 2) -> None:
    """A scores folder with `part` images in each part of its ledger."""
    place.write_json("run.json", {"classes": CLASSES})
    ledger = Ledger(place)
    for place_of, image in enumerate(images, start=1):
        objects = find_objects(draw_ids(image), 3, 4, np.full((41, 67), 0.75, np.float32))
        ledger.add([make_scored(image, size=(41, 67), objects=object_rows(image, objects, None))])
        if place_of % part == 0:
            ledger.commit()
    ledger.commit()


def read_exports(place: Place) -> dict[str, bytes]:
    exports = place.below("exports")
    return {name: exports.read(name) or b"" for name, _, _ in exports.files()}


@contextmanager
def serve(kind: str, folder: Path) -> Iterator[Place]:
    if kind == "local":
        yield as_place(folder / "scores")
    else:
        with serve_s3():
            yield as_place(f"s3://{BUCKET}/{folder.name}")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_exports_hold_every_object_once_and_again_the_same(kind: str, tmp_path: Path) -> None:
    with serve(kind, tmp_path) as place:
        write_scores(place)
        known = {image: describe(draw_ids(image), 4) for image in IMAGES}
        total = sum(map(len, known.values()))
        assert total > 100
        assert export_objects(place, "coco") == Exported(f"{place}/exports/coco.json", 4, total)
        assert export_objects(place, "yolo") == Exported(f"{place}/exports/yolo", 4, total)
        written = read_exports(place)
        names = {"s/a.txt", "b#0.txt", "b#10.txt", "empty.txt", "classes.txt"}
        assert set(written) == {"coco.json", *(f"yolo/{name}" for name in names)}
        check_coco(json.loads(written["coco.json"]), known)
        check_yolo(written, known)
        export_objects(place, "coco")
        export_objects(place, "yolo")
        assert read_exports(place) == written


def check_coco(coco: dict[str, Any], known: dict[str, list[tuple[Any, ...]]]) -> None:
    assert coco["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "grüner Staub"}]
    names = {image["id"]: image["file_name"] for image in coco["images"]}
    assert sorted(names) == [1, 2, 3, 4]
    assert [(image["width"], image["height"]) for image in coco["images"]] == [(67, 41)] * 4
    annotations = coco["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))
    assert {(annotation["score"], annotation["iscrowd"]) for annotation in annotations} == {(0.75, 0)}
    for number, name in names.items():
        found = [
            (annotation["category_id"], tuple(annotation["bbox"]), annotation["area"])
            for annotation in annotations
            if annotation["image_id"] == number
        ]
        assert found == [row[:3] for row in known[name]]


def test_coco_s_own_evaluation_reads_the_file_and_finds_it_perfect_against_what_was_drawn(
    tmp_path: Path,
) -> None:
    place = as_place(tmp_path)
    write_scores(place)
    coco = json.loads(Path(export_objects(place, "coco").where).read_text())
    drawn = [(number, row) for number, image in enumerate(IMAGES, 1) for row in describe(draw_ids(image), 4)]
    annotations = [
        {"id": k, "image_id": number, "category_id": kind, "bbox": box, "area": area, "iscrowd": 0}
        for k, (number, (kind, box, area, *_)) in enumerate(drawn, 1)
    ]
    (tmp_path / "truth.json").write_text(json.dumps({**coco, "annotations": annotations}))
    (tmp_path / "found.json").write_text(json.dumps(coco["annotations"]))
    truth = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.params.maxDets = [1, 10, len(drawn)]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU 0.5 to 0.95, recalls, classes; all areas
    assert precision.min() == precision.max() == 1


def check_yolo(written: dict[str, bytes], known: dict[str, list[tuple[Any, ...]]]) -> None:
    assert written["yolo/classes.txt"].decode() == "cell\ngrüner Staub\n"
    assert written["yolo/empty.txt"] == b""
    for image, name in zip(IMAGES, ("s/a", "b#0", "b#10", "empty"), strict=True):
        lines = [line.rsplit(" ", 1) for line in written[f"yolo/{name}.txt"].decode().splitlines()]
        assert {confidence for _, confidence in lines} <= {"0.750000"}
        boxes = parse_yolo("\n".join(box for box, _ in lines).encode(), Path(name), (41, 67))
        edges = [(box.kind, box.left, box.top, box.right - box.left, box.bottom - box.top) for box in boxes]
        expected = [(row[0], *row[1]) for row in known[image]]
        np.testing.assert_allclose(
            np.reshape(edges, (-1, 5)), np.reshape(expected, (-1, 5)), atol=1e-7
        )  # of a pixel: what is left of ten digits


def test_an_object_without_a_confidence_has_none_in_either_format(tmp_path: Path) -> None:
    place = as_place(tmp_path)
    write_scores(place, ("a.png",))
    ids = np.pad(np.ones((2, 4), np.uint8), ((1, 1), (2, 2)))
    objects = object_rows("z.png", find_objects(ids, 3, 1), None)
    ledger = Ledger(place)
    ledger.add([make_scored("z.png", size=(4, 8), objects=objects)])
    ledger.commit()
    export_objects(place, "coco")
    export_objects(place, "yolo")
    assert json.loads(read_exports(place)["coco.json"])["annotations"][-1]["score"] is None
    assert read_exports(place)["yolo/z.txt"] == (b"0 0.5000000000 0.5000000000 0.5000000000 0.5000000000\n")


@pytest.mark.parametrize(
    ("kind", "images", "text"),
    [
        (
            "yolo",
            ("a.png", "s/a.png", "a.tif"),
            "exports/yolo/a.txt would be of a.png and of a.tif; export coco",
        ),
        (
            "yolo",
            ("classes.png",),
            "exports/yolo/classes.txt would be of the list of classes and of classes.png",
        ),
        ("masks", ("a.png", "s/a.png", "a.tif"), "exports/masks/a.png would be of a.png and of a.tif;"),
    ],
)
def test_two_images_of_one_file_are_refused_before_anything_is_written(
    kind: ExportKind, images: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    place = as_place(tmp_path)
    write_scores(place, images)
    with pytest.raises(RequestError, match=text):
        export_objects(place, kind)
    assert read_exports(place) == {}


@pytest.mark.parametrize("kind", ["local", "s3"])
@pytest.mark.parametrize("palette", [b"", bytes(range(9))], ids=["gray", "palette"])
def test_exported_masks_are_grays_under_the_images_names(kind: str, palette: bytes, tmp_path: Path) -> None:
    with serve(kind, tmp_path) as place:
        write_scores(place)
        for image in IMAGES:
            place.below("masks").write_below(f"{image}.png", encode_mask(draw_ids(image), palette))
        assert export_objects(place, "masks") == Exported(f"{place}/exports/masks", 4)
        written = read_exports(place)
        names = [f"masks/{name}.png" for name in ("s/a", "b#0", "b#10", "empty")]
        assert set(written) == set(names)
        for image, name in zip(IMAGES, names, strict=True):
            ids = cv2.imdecode(np.frombuffer(written[name], np.uint8), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(ids, draw_ids(image))
        place.below("masks").remove("empty.png.png")
        with pytest.raises(DamagedFile, match=r"masks/empty.png.png is missing or damaged \(.*; remove it"):
            export_objects(place, "masks")


def test_the_table_of_objects_has_each_of_them_once_images_in_natural_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, images = as_place(tmp_path), ("s/10.png", "s/9.png", 'a "b", c.png', "empty.png")
    write_scores(place, images)
    ledger = Ledger(place)
    found = [one for _, objects in ledger.with_objects() for one in objects]
    assert len(found) > 100
    where = write_object_table(place, ledger, CLASSES, len(found))
    assert where == f"objects: {place.uri}/objects.csv"
    text = (tmp_path / "objects.csv").read_text(encoding="utf-8")
    heading, *rows = csv.reader(io.StringIO(text))
    assert heading == ["image", "class", *FoundObject._fields[2:]]
    wanted = [one for image in ('a "b", c.png', "s/9.png", "s/10.png") for one in found if one.image == image]
    for row, one in zip(rows, wanted, strict=True):
        assert row[:2] == [one.image, CLASSES[one.class_id]]
        assert list(map(float, row[2:10])) == list(one[2:10])
        assert row[10:] == [str(one.touches_border).lower(), ""]
    monkeypatch.setattr(seg.score.exports, "MOST_ROWS", len(found) - 1)
    assert write_object_table(place, ledger, CLASSES, len(found)).startswith(f"no objects.csv: {len(found)} ")
    assert not (tmp_path / "objects.csv").exists()


def test_a_table_without_objects_is_its_heading(tmp_path: Path) -> None:
    write_object_table(place := as_place(tmp_path), Ledger(place), CLASSES, 0)
    assert (tmp_path / "objects.csv").read_text().startswith("image,class,x,y,width,height,area,")


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_an_export_that_fails_leaves_the_earlier_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(kind, tmp_path) as place:
        write_scores(place)
        export_objects(place, "coco")
        written = read_exports(place)

        def fail(*_: object) -> dict[str, Any]:
            raise OSError("no space left")

        monkeypatch.setattr(seg.score.exports, "_annotation", fail)
        with pytest.raises(OSError, match="no space left"):
            export_objects(place, "coco")
        assert read_exports(place) == written
        if place.is_local:
            assert [path.name for path in place.local("exports").iterdir()] == ["coco.json"]


def test_a_folder_that_is_no_scores_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"holds no run.json, so it is no scores folder"):
        export_objects(as_place(tmp_path), "coco")
    assert list(tmp_path.iterdir()) == []
