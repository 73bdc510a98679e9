"""Files of folders as fuzz targets: model files, lists, a scores folder, a pack, a run's last/."""

import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.mutators import Random, damage, edit_json, edit_words
from tests.fuzz.target import Target


@cache
def folder(name: str) -> Path:
    """A folder of this process for one target; under the campaign's own, which it removes."""
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))


def sha(value: object) -> str:
    return sha256(repr(value).encode()).hexdigest()


def put(path: Path, data: bytes) -> Path:
    """Write a file as damage does: in place, without a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---- model files


@cache
def model_seeds() -> list[bytes]:
    """A small network under a sound card: what is read before a network is built."""
    from torch import nn

    from seg.data.preprocess import Statistics
    from seg.model_card import ModelCard, Provenance
    from seg.model_file import save_model
    from seg.recipe import Preprocessing, Tiling

    card = ModelCard(
        architecture="unet",
        backbone=None,
        classes=("background", "disc"),
        label_map=((7, 1), (255, 255)),
        preprocessing=Preprocessing(),
        statistics=Statistics((100.0,), (20.0,), 8),
        tiling=Tiling(crop_px=(64, 64), halo_px=16),
        validation={"miou": 0.5},
        provenance=Provenance(seed=1, parent="test"),
    )
    path = folder("model") / "seed.safetensors"
    save_model(path, nn.Linear(3, 2), card)
    return [path.read_bytes()]


def read_model(data: bytes) -> str:
    """A card and its weights, and whether a network can be made of the card."""
    import torch

    from seg.model_card import read_card
    from seg.model_file import read_model, weights_sha256
    from seg.models.build import build

    file = put(folder("model") / "a.safetensors", data)
    tensors, card = read_model(file)
    assert read_card(file) == card
    with torch.device("meta"):
        build(
            card.architecture,
            backbone=card.backbone,
            num_classes=len(card.classes),
            channels=card.channels,
            options=dict(card.model_options),
        )
    return sha((asdict(card), weights_sha256(tensors)))


def edit_card(data: bytes, fellows: Sequence[bytes], random: Random) -> bytes:
    """Another card around the same weights."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    (key,) = header["__metadata__"]
    card = edit_json(header["__metadata__"][key].encode(), [header["__metadata__"][key].encode()], random)
    header["__metadata__"][key] = card.decode("utf-8", errors="replace")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


# ---- lists and projects of data sets


@cache
def plain_folder() -> Path:
    """Six labelled images in the plain layout."""
    from tests.conftest import write_discs

    return write_discs(folder("plain") / "data", size=(24, 32))


def read_plain(name: str, data: bytes) -> str:
    """A data set, one of whose lists is this."""
    from seg.data.plain import open_plain

    for other in ("train.txt", "val.txt"):
        put(plain_folder() / other, b"s0/0.png\n" if other == "train.txt" else b"s1/0.png\n")
    put(plain_folder() / name, data)
    found = open_plain(plain_folder())
    return sha((found.classes, found.given_split, len(found.samples)))


def read_colours(data: bytes) -> str:
    from seg.data.colours import read_class_dict

    return sha(read_class_dict(put(folder("camvid") / "class_dict.csv", data)))


def read_project(data: bytes) -> str:
    """A VIA project, and the masks that its polygons draw."""
    from seg.data.drinks import CLASSES, open_drinks

    put(folder("drinks") / "0.jpg", b"")
    put(folder("drinks") / "segmentation_train.json", data)
    found = open_drinks(folder("drinks"))
    drawn = [(one.decoder, one.image) for one in found.samples if one.decoder]
    masks = [decode(b"", image, (48, 64), CLASSES, ()).tobytes() for decode, image in drawn]
    return sha(masks)


def _project() -> list[bytes]:
    region = {
        "shape_attributes": {"name": "polygon", "all_points_x": [3, 20, 11], "all_points_y": [2, 9, 30]},
        "region_attributes": {"Name": "2"},
    }
    project = {"_via_img_metadata": {"0.jpg1": {"filename": "0.jpg", "size": 1, "regions": [region, region]}}}
    return [json.dumps(project).encode()]


@cache
def pickle_seeds() -> list[bytes]:
    boxes = {"a.png": [[1, 2, 3, 4], [5, 6, 7, 8]], "b.png": []}
    masks = {"a.png": np.arange(12, dtype=np.uint8).reshape(3, 4) % 3}
    return [pickle.dumps(value, protocol) for value in (boxes, masks) for protocol in (2, 4)]


def read_pickled(data: bytes) -> str:
    from seg.data.old_labels import read_labels

    return sha(sorted(read_labels(put(folder("pickle") / "roi.pkl", data)).items()))


# ---- a scores folder


def report_figures(place: Any) -> str:
    """The figures that a report shows of a scores folder."""
    from seg.report.report import gather

    report = gather(place)
    ranked = [(row.image, repr(row.miou), row.confidence) for row in (*report.worst, *report.listed)]
    aside = [repr(reason) for reason in report.quarantine]
    objects = [(one.found, one.missed, one.invented, one.predicted, one.mean_area) for one in report.objects]
    sums = (report.images, report.labelled, repr(report.miou), report.confusion, repr(objects))
    return sha((sums, ranked, aside))


@cache
def scores_folder() -> Path:
    """A finished scoring of twelve images, two of them set aside."""
    from seg.ledger.ledger import Ledger
    from seg.ledger.outcome import Scored
    from tests.cluster.scores import make_row, random_rows, write_scores
    from tests.outcomes import make_aside, make_object

    place = write_scores(folder("scores") / "out", random_rows(10, seed=0), part=5)
    ledger = Ledger(place)
    row = make_row("s8/1.png", np.array([[4, 1, 0], [0, 3, 0], [0, 0, 2]], np.int64))
    objects = tuple(make_object("s8/1.png", number) for number in range(3))
    ledger.add([Scored(**row, objects=objects)])
    ledger.commit()
    ledger.add(make_aside(f"s9/{number}.png", bytes=3, mtime_ns=1) for number in range(2))
    ledger.commit()
    return place.local()


def scores_file(kind: str) -> Path:
    """A file of the scores folder, by name or, of a folder of parts, its last one."""
    path = scores_folder() / kind
    return path if path.is_file() else sorted(path.glob("*.parquet"))[-1]


@cache
def scores_seed(kind: str) -> list[bytes]:
    return [scores_file(kind).read_bytes()]


def read_scores(kind: str, data: bytes) -> str:
    """What `report` makes of a scores folder with this file in it."""
    from seg.storage import as_place

    (whole,) = scores_seed(kind)
    path = scores_file(kind)
    try:
        put(path, data)
        return report_figures(as_place(scores_folder()))
    finally:
        put(path, whole)


@cache
def note_seeds() -> list[bytes]:
    from seg.score.blame import InFlight
    from seg.storage import as_place

    place = as_place(folder("notes-seed"))
    notes = InFlight(place, "worker-1")
    notes.begin("s1/a.png", 1)
    notes.begin("s1/b.tif#2", 2)
    return [(place.local() / "worker-1.json").read_bytes(), b""]


def read_notes(name: str, data: bytes) -> str:
    from seg.score.blame import take_over
    from seg.storage import as_place

    place = as_place(folder("notes"))
    put(place.local() / name, data)
    try:
        return sha(sorted(take_over(place).items()))
    finally:
        for path in place.local().iterdir():
            path.unlink()


@cache
def status_seeds() -> list[bytes]:
    from seg.files import json_bytes
    from seg.score.status import Held, ScoringStatus

    numbers = dict.fromkeys(
        ("images_total", "images_done", "images_skipped", "images_scored", "images_quarantined", "pixels"), 4
    )
    status = ScoringStatus(
        title="a",
        state="scoring",
        seconds=3.0,
        megapixels_per_second=1.0,
        megapixels_per_second_recent=None,
        miou=0.5,
        seconds_left=None,
        ends_at=None,
        deadline=None,
        limiting_stage="model",
        workers=2,
        suspects=0,
        in_flight=[Held("a.png", "model", 2.0)],
        cause="",
        updated="2026-01-01T18:00:00+00:00",
        host="h",
        pid=1,
        **numbers,
    )
    return [json_bytes(asdict(status))]


def read_status(data: bytes) -> str:
    from rich.console import Console

    from seg.score.status import StatusReader
    from seg.storage import as_place

    put(folder("status") / "status.json", data)
    reader = StatusReader(as_place(folder("status")))
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        Console(file=nothing).print(reader.picture(24))
    return sha((asdict(reader.status), reader.exit_code))


def read_claim(data: bytes) -> str:
    """What a training makes of the run.json it finds."""
    from seg.locks.claim import claim_folder

    put(folder("claim") / "run.json", data)
    claim_folder(folder("claim"), json.loads(_identity()[0]))
    return "claimed"


@cache
def _identity() -> list[bytes]:
    recipe = {"name": "tiny", "crops": {"size_px": [64, 64]}, "lr": 0.003}
    return [json.dumps({"recipe": recipe, "classes": ["a", "b"], "train": ["s0/0.png"], "seed": 1}).encode()]


# ---- a pack, and a run's last/


@cache
def pack_plan() -> Any:
    from tests.conftest import write_discs
    from tests.seg.pack.test_pack import plan_of

    os.environ["FRINGE_CACHE"] = str(folder("pack") / "cache")
    return plan_of(write_discs(folder("pack") / "data", sequences=1, frames=2, size=(24, 32)))


@cache
def pack_seed(ending: str) -> list[bytes]:
    from seg.pack.build import ensure_pack

    return [ensure_pack(pack_plan()).with_suffix(ending).read_bytes()]


def read_pack(ending: str, data: bytes) -> str:
    """The pack that a training uses where it finds this file."""
    from seg.pack.build import ensure_pack
    from seg.pack.pack import Pack

    path = pack_plan().path.with_suffix(ending)
    written = path.stat().st_mtime_ns
    put(path, data)
    if KEPT_TIME:
        os.utime(path, ns=(written, written))
    pack = Pack(ensure_pack(pack_plan()))
    rows = [pack[row] for row in pack.labelled]
    return sha([(row.name, row.pixels.tobytes(), row.mask.tobytes(), row.class_pixels) for row in rows])


KEPT_TIME: list[bool] = []
"""Whether a changed pack looks unchanged, while it holds anything."""


@contextmanager
def keeping_time() -> Iterator[None]:
    """Change packs as a disk does that loses a bit: nobody wrote, so the file's time stays."""
    KEPT_TIME.append(True)
    try:
        yield
    finally:
        KEPT_TIME.clear()


@cache
def last_seeds() -> list[bytes]:
    """The newest of two states."""
    from tests.seg.train.test_state import run_of

    return [run_of(folder("last"), 2)[0].read_bytes()]


def read_last(data: bytes) -> str:
    """The state that a run goes on from, where the newest file is this."""
    from seg.model_file import weights_sha256
    from seg.train.state import newest_state

    path = sorted((folder("last") / "last").iterdir())[-1]
    (whole,) = last_seeds()
    try:
        put(path, data)
        state = newest_state(folder("last"))
        return sha(state and (state.journal, weights_sha256(state.tensors)))
    finally:
        put(path, whole)


def _once(data: bytes) -> Callable[[], list[bytes]]:
    return lambda: [data]


COLOURS = b"name,r,g,b\nSky,128,128,128\nRoad,128,64,128\n"

SCORES_FILES = {
    "run.json": edit_json,
    "summary.json": edit_json,
    "ledger": damage,
    "objects": damage,
    "quarantine": damage,
}
FILES = [
    Target("model file", model_seeds, read_model, (damage, edit_card)),
    Target("classes.txt", _once(b"background\ndisc\n"), partial(read_plain, "classes.txt"), (edit_words,)),
    Target("train.txt", _once(b"s0/0.png\ns0/1.png\n"), partial(read_plain, "train.txt"), (edit_words,)),
    Target("class_dict.csv", _once(COLOURS), read_colours, (edit_words,)),
    Target("VIA project", _project, read_project, (edit_json,)),
    Target("old labels (pickles)", pickle_seeds, read_pickled),
    *(
        Target(f"scores, {kind}", partial(scores_seed, kind), partial(read_scores, kind), (way,), (), True)
        for kind, way in SCORES_FILES.items()
    ),
    Target("scores, note", note_seeds, partial(read_notes, "worker-1.json"), (damage,)),
    Target("scores, suspects.json", note_seeds, partial(read_notes, "suspects.json"), (damage,)),
    Target("scores, status.json", status_seeds, read_status, (edit_json,)),
    Target("run's run.json", _identity, read_claim, (edit_json,), has_checksum=True),
    Target("pack", partial(pack_seed, ".arrow"), partial(read_pack, ".arrow"), has_checksum=True),
    Target("pack's seal", partial(pack_seed, ".seal"), partial(read_pack, ".seal"), has_checksum=True),
    Target("run's last/", last_seeds, read_last, has_checksum=True),
]
