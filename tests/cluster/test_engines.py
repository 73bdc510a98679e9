"""Whatever scores an archive, the integers, objects and masks are the same, and those of a count by hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cluster.score import score
from cluster.session import Session
from seg.data.camvid import CLASSES
from seg.data.preprocess import Statistics
from seg.ledger.ledger import Ledger
from seg.recipe import Preprocessing
from seg.requests import ScoreRequest
from seg.simulate.archive import Simulation, simulate_archive
from seg.storage import as_place
from tests.conftest import draw_disc
from tests.small import CLASSES as TWO_CLASSES
from tests.small import count_by_hand, ledger_rows, read_tree, sum_ledger, write_image, write_model

pytestmark = pytest.mark.ray

ENGINES: dict[str, dict[str, object]] = {
    "together 1": {"workers": 1, "stages": "together"},
    "together 2": {"workers": 2, "stages": "together"},
    "apart 1": {"workers": 1, "stages": "apart"},
    "apart 2": {"workers": 2, "stages": "apart"},
    "crops": {"workers": 2, "shard": "crops"},
}
VOLATILE = {"attempt", "finished_at", *(f"seconds_{stage}" for stage in ("read", "decode", "model", "write"))}


@dataclass
class Archive:
    """What is scored, and what with."""

    request: dict[str, Any]
    labels: dict[str, Path | None]
    num_classes: int = 2


Make = Callable[[Path], Archive]


def write_archive(
    folder: Path,
    size: tuple[int, int] = (150, 200),
    count: int = 6,
    *,
    change: Callable[[np.ndarray], np.ndarray] = lambda image: image,
    labelled: bool = True,
    **model: Any,
) -> Archive:
    random, labels = np.random.default_rng(0), {}
    for number in range(count):
        image, mask = draw_disc(size, random)
        name = f"s/{number}.png"
        write_image(folder / "images" / name, change(image))
        labels[name] = folder / "masks" / name if labelled else None
        if labelled:
            write_image(folder / "masks" / name, mask)
    return finish(folder, labels, **model)


def finish(folder: Path, labels: dict[str, Path | None], **model: Any) -> Archive:
    if any(labels.values()):
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in TWO_CLASSES))
    path = write_model(folder.with_suffix(".safetensors"), **model)
    return Archive({"archive": as_place(folder), "models": (path,)}, labels)


def sixteen_bits(folder: Path) -> Archive:
    return write_archive(folder, change=lambda image: image.astype(np.uint16) * 257 + 3)


def colour(folder: Path) -> Archive:
    change = lambda image: cv2.merge([image, image // 2, 255 - image])  # noqa: E731
    return write_archive(folder, change=change, preprocessing=Preprocessing(channels=3))


def unlabelled(folder: Path) -> Archive:
    found = write_archive(folder, labelled=False)
    return replace(found, request=found.request | {"archive": as_place(folder / "images")})


def background_and_clahe(folder: Path) -> Archive:
    return write_archive(
        folder, count=9, preprocessing=Preprocessing(background_every=1, clahe_clip=3.0, shrink=1.5)
    )


def pages(folder: Path) -> Archive:
    random = np.random.default_rng(0)
    drawn = [draw_disc((70, 90), random) for _ in range(40)]
    (folder / "images").mkdir(parents=True)
    assert cv2.imwritemulti(str(folder / "images/stack.tif"), [image for image, _ in drawn])
    labels: dict[str, Path | None] = {}
    for page, (_, mask) in enumerate(drawn):
        labels[f"stack.tif#{page}"] = folder / f"masks/stack.tif#{page}.png"
        write_image(folder / f"masks/stack.tif#{page}.png", mask)
    return finish(folder, labels)


def sequence(folder: Path) -> Archive:
    return write_archive(folder, (64, 64), 9, architecture="icnet-gru", frames=3)


def gaussian(folder: Path) -> Archive:
    found = write_archive(folder)
    found.request["blend"] = "gaussian"
    return found


def huge(folder: Path) -> Archive:
    return write_archive(folder, (12_000, 12_000), 1, preprocessing=Preprocessing(shrink=8))


def simulated(folder: Path) -> Archive:
    simulate_archive(folder, Simulation(num_sequences=2, num_frames=12, size_px=512))
    names = [path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.png")]
    model = write_model(
        folder.with_suffix(".safetensors"),
        classes=("background", "cell"),
        preprocessing=Preprocessing(shrink=3),
    )
    return Archive(
        {"archive": as_place(folder), "models": (model,)}, {name: folder / "masks" / name for name in names}
    )


def averaged(folder: Path) -> Archive:
    found = write_archive(folder)
    other = write_model(folder.with_name("other.safetensors"), seed=1)
    return replace(found, request=found.request | {"models": (*found.request["models"], other), "tta": "d4"})


KINDS: dict[str, Make] = {
    made.__name__: made
    for made in (
        *(sixteen_bits, colour, unlabelled, background_and_clahe, pages),
        *(sequence, gaussian, huge, simulated, averaged),
    )
}


Check = Callable[[Archive, list[str]], None]


@pytest.fixture
def check_alike(tmp_path: Path, session: Session, idle: Session, capfd: pytest.CaptureFixture[str]) -> Check:
    """All engines give what this process gives, in one round, and its integers are those of its masks."""

    def check(archive: Archive, engines: list[str]) -> None:
        request = ScoreRequest(**archive.request, out=as_place(tmp_path / "0"), workers=0, min_object_px=4)
        assert score(request, idle).exit_code == 0
        expected = gather(tmp_path / "0")
        assert expected[0].keys() == archive.labels.keys()
        total = count_by_hand(tmp_path / "0/masks", archive.labels, archive.num_classes)
        assert sum_ledger(tmp_path / "0", num_classes=archive.num_classes) == total
        if any(archive.labels.values()):
            assert min(np.sum(total, 1)[:2]) > 0
        for engine in engines:
            if engine == "crops" and request.blend == "gaussian":
                continue
            out = tmp_path / engine
            other = replace(request, out=as_place(out), **ENGINES[engine])  # type: ignore[arg-type]
            capfd.readouterr()
            assert score(other, session).exit_code == 0, engine
            assert capfd.readouterr().err.count(" images in parcels of ") == 1, engine
            assert gather(out) == expected, engine
            assert list((out / "inflight").iterdir()) == []

    return check


def gather(folder: Path) -> tuple[dict[str, dict[str, object]], list[str], dict[str, bytes]]:
    """Rows, objects and masks of a scores folder, without what hangs on the clock."""
    rows = {row["image"]: {name: row[name] for name in row.keys() - VOLATILE} for row in ledger_rows(folder)}
    objects = sorted(str(row) for part in Ledger(folder).objects() for row in part.to_pylist())
    return rows, objects, read_tree(folder / "masks")


@pytest.mark.parametrize(
    "engine", ["apart 1", *(pytest.param(one, marks=pytest.mark.long) for one in ("together 2", "crops"))]
)
def test_every_engine_gives_the_same(tmp_path: Path, check_alike: Check, engine: str) -> None:
    check_alike(write_archive(tmp_path / "archive"), [engine])


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_gives_the_same_of_every_kind(tmp_path: Path, check_alike: Check, kind: str) -> None:
    check_alike(KINDS[kind](tmp_path / "archive"), list(ENGINES))


@pytest.mark.long
def test_every_engine_gives_the_same_of_camvid(tmp_path: Path, check_alike: Check, shared_data: Path) -> None:
    model = write_model(
        tmp_path / "model.safetensors",
        classes=CLASSES,
        architecture="icnet",
        preprocessing=Preprocessing(channels=3, normalisation="fitted"),
        statistics=Statistics((105.0, 108.0, 110.0), (75.0, 77.0, 75.0), 8),
        label_map=((11, 255),),
    )
    places = {
        name: as_place(shared_data / "camvid" / folder)
        for name, folder in (("archive", "val"), ("labels", "valannot"))
    }
    names = sorted(path.name for path in (shared_data / "camvid/val").iterdir())
    labels: dict[str, Path | None] = {name: shared_data / "camvid/valannot" / name for name in names}
    check_alike(Archive(places | {"models": (model,)}, labels, num_classes=11), list(ENGINES))
